// result[M, N] = alpha x[M, K] W[N, K]ᵀ + beta result, the weight decoded on the way.
//
// No workgroup memory: an invocation keeps 8 tokens × 16 outputs in registers, so that each load,
// which is what costs on a software driver, serves 8 or 16 products, and a quantised chunk is
// decoded once for 8 tokens.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.rows);
}

//!include shared/eight_rows.wgsl

// One token's products with four inputs: a row of `w[g]` in, four outputs of `acc[g]`.
fn step(acc: ptr<function, Row>, inputs: vec4<f32>, w: ptr<function, array<mat4x4<f32>, 4>>) {
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable
    // indexes.
    (*acc)[0] += inputs * (*w)[0];
    (*acc)[1] += inputs * (*w)[1];
    (*acc)[2] += inputs * (*w)[2];
    (*acc)[3] += inputs * (*w)[3];
}

// The chunk of four neighbouring outputs.
fn load_four(output: u32, c: u32) -> array<Chunk, 4> {
    let last = params.rows - 1u;
    let row_chunks = params.cols / CHUNK;
    return array<Chunk, 4>(
        load_chunk(min(output, last) * row_chunks + c),
        load_chunk(min(output + 1u, last) * row_chunks + c),
        load_chunk(min(output + 2u, last) * row_chunks + c),
        load_chunk(min(output + 3u, last) * row_chunks + c),
    );
}

fn weights_of_four(chunks: ptr<function, array<Chunk, 4>>, i: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight4((*chunks)[0], i),
        weight4((*chunks)[1], i),
        weight4((*chunks)[2], i),
        weight4((*chunks)[3], i),
    );
}

@compute @workgroup_size(8, 4)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x * ROWS;
    let output = id.y * COLUMNS;
    if token >= params.tokens || output >= params.rows {
        return;
    }
    let row_chunks = params.cols / CHUNK;
    let row4 = params.cols / 4u;
    let last = params.tokens - 1u;
    // Beyond the last token or output, the last ones are computed again and not stored.
    let x0 = token * row4;
    let x1 = min(token + 1u, last) * row4;
    let x2 = min(token + 2u, last) * row4;
    let x3 = min(token + 3u, last) * row4;
    let x4 = min(token + 4u, last) * row4;
    let x5 = min(token + 5u, last) * row4;
    let x6 = min(token + 6u, last) * row4;
    let x7 = min(token + 7u, last) * row4;
    var acc0: Row;
    var acc1: Row;
    var acc2: Row;
    var acc3: Row;
    var acc4: Row;
    var acc5: Row;
    var acc6: Row;
    var acc7: Row;

    for (var c = 0u; c < row_chunks; c++) {
        var chunks0 = load_four(output, c);
        var chunks1 = load_four(output + 4u, c);
        var chunks2 = load_four(output + 8u, c);
        var chunks3 = load_four(output + 12u, c);
        for (var i = 0u; i < CHUNK / 4u; i++) {
            var w = array<mat4x4<f32>, 4>(
                weights_of_four(&chunks0, i),
                weights_of_four(&chunks1, i),
                weights_of_four(&chunks2, i),
                weights_of_four(&chunks3, i),
            );
            let at = c * (CHUNK / 4u) + i;
            step(&acc0, x[x0 + at], &w);
            step(&acc1, x[x1 + at], &w);
            step(&acc2, x[x2 + at], &w);
            step(&acc3, x[x3 + at], &w);
            step(&acc4, x[x4 + at], &w);
            step(&acc5, x[x5 + at], &w);
            step(&acc6, x[x6 + at], &w);
            step(&acc7, x[x7 + at], &w);
        }
    }

    store_eight(token, output, &acc0, &acc1, &acc2, &acc3, &acc4, &acc5, &acc6, &acc7);
}
