// result[M, K] = alpha dy[M, N] W[N, K] + beta result, the backward of linear_nt: the weight is
// decoded on the way and never transposed in memory.
//
// No workgroup memory: an invocation keeps 8 tokens × 16 inputs in registers and walks down the
// rows of W four at a time.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.cols);
}

//!include shared/eight_rows.wgsl

// One token's products with four rows of W: `w[g]` holds those rows' four inputs g as its columns.
fn step(acc: ptr<function, Row>, outputs: vec4<f32>, w: ptr<function, array<mat4x4<f32>, 4>>) {
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable
    // indexes.
    (*acc)[0] += (*w)[0] * outputs;
    (*acc)[1] += (*w)[1] * outputs;
    (*acc)[2] += (*w)[2] * outputs;
    (*acc)[3] += (*w)[3] * outputs;
}

// The 16 inputs of a row of W that begins at chunk `at`, a vec4 in each column: half a chunk, a
// whole one or four, by format.
fn sixteen(at: u32, first_chunk: u32, first_vec4: u32) -> mat4x4<f32> {
    if CHUNK > 4u {
        let chunk = open_chunk(fetch_chunk(at + first_chunk), first_vec4);
        return mat4x4<f32>(weight4(chunk, 0u), weight4(chunk, 1u), weight4(chunk, 2u), weight4(chunk, 3u));
    }
    let last = params.cols / CHUNK - 1u;
    return mat4x4<f32>(
        weight4(load_chunk(at + first_chunk), 0u),
        weight4(load_chunk(at + min(first_chunk + 1u, last)), 0u),
        weight4(load_chunk(at + min(first_chunk + 2u, last)), 0u),
        weight4(load_chunk(at + min(first_chunk + 3u, last)), 0u),
    );
}

@compute @workgroup_size(8, 4)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x * ROWS;
    let input = id.y * COLUMNS;
    if token >= params.tokens || input >= params.cols {
        return;
    }
    let row_chunks = params.cols / CHUNK;
    let row4 = params.rows / 4u;
    let first_chunk = input / CHUNK;
    let first_vec4 = (input % CHUNK) / 4u;
    let last = params.tokens - 1u;
    // Beyond the last token or input, the last ones are computed again and not stored.
    let y0 = token * row4;
    let y1 = min(token + 1u, last) * row4;
    let y2 = min(token + 2u, last) * row4;
    let y3 = min(token + 3u, last) * row4;
    let y4 = min(token + 4u, last) * row4;
    let y5 = min(token + 5u, last) * row4;
    let y6 = min(token + 6u, last) * row4;
    let y7 = min(token + 7u, last) * row4;
    var acc0: Row;
    var acc1: Row;
    var acc2: Row;
    var acc3: Row;
    var acc4: Row;
    var acc5: Row;
    var acc6: Row;
    var acc7: Row;

    for (var n4 = 0u; n4 < row4; n4++) {
        let at = 4u * n4 * row_chunks;
        let row0 = sixteen(at, first_chunk, first_vec4);
        let row1 = sixteen(at + row_chunks, first_chunk, first_vec4);
        let row2 = sixteen(at + 2u * row_chunks, first_chunk, first_vec4);
        let row3 = sixteen(at + 3u * row_chunks, first_chunk, first_vec4);
        var w = array<mat4x4<f32>, 4>(
            mat4x4<f32>(row0[0], row1[0], row2[0], row3[0]),
            mat4x4<f32>(row0[1], row1[1], row2[1], row3[1]),
            mat4x4<f32>(row0[2], row1[2], row2[2], row3[2]),
            mat4x4<f32>(row0[3], row1[3], row2[3], row3[3]),
        );
        step(&acc0, dy[y0 + n4], &w);
        step(&acc1, dy[y1 + n4], &w);
        step(&acc2, dy[y2 + n4], &w);
        step(&acc3, dy[y3 + n4], &w);
        step(&acc4, dy[y4 + n4], &w);
        step(&acc5, dy[y5 + n4], &w);
        step(&acc6, dy[y6 + n4], &w);
        step(&acc7, dy[y7 + n4], &w);
    }

    store_eight(token, input, &acc0, &acc1, &acc2, &acc3, &acc4, &acc5, &acc6, &acc7);
}
