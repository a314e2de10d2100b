// dx[M, K] = alpha dy[M, N] W[N, K] + beta dx, the backward of linear_nt: the weight is decoded on the way and never
// transposed in memory. beta = 0 does not read dx.
//
// No workgroup memory: an invocation keeps 8 tokens × 16 inputs in registers and walks down the rows of W four at a time.

struct Params {
    tokens: u32,       // M
    out_features: u32, // N, a multiple of 4
    in_features: u32,  // K, a multiple of 4, of 32 for block formats
    alpha: f32,
    beta: f32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<f32>>;

const TOKENS: u32 = 8u;
const INPUTS: u32 = 16u;
// The 16 inputs are half a chunk, a whole one or four, by format.
const CHUNKS: u32 = max(INPUTS / CHUNK, 1u);
const CHUNK_VEC4S: u32 = min(CHUNK, INPUTS) / 4u;

// One token's products with four rows of W: `w[g]` holds those rows' four inputs g as its columns.
fn step(acc: ptr<function, array<vec4<f32>, 4>>, outputs: vec4<f32>, w: ptr<function, array<mat4x4<f32>, 4>>) {
    for (var g = 0u; g < 4u; g++) {
        (*acc)[g] += (*w)[g] * outputs;
    }
}

fn store(token: u32, input: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if token >= params.tokens {
        return;
    }
    for (var g = 0u; g < 4u; g++) {
        if input + 4u * g < params.in_features {
            let at = (token * params.in_features + input) / 4u + g;
            var value = params.alpha * (*acc)[g];
            if params.beta != 0.0 {
                value += params.beta * dx[at];
            }
            dx[at] = value;
        }
    }
}

@compute @workgroup_size(8, 4)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x * TOKENS;
    let input = id.y * INPUTS;
    if token >= params.tokens || input >= params.in_features {
        return;
    }
    let row_chunks = params.in_features / CHUNK;
    let row4 = params.out_features / 4u;
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
    var acc0: array<vec4<f32>, 4>;
    var acc1: array<vec4<f32>, 4>;
    var acc2: array<vec4<f32>, 4>;
    var acc3: array<vec4<f32>, 4>;
    var acc4: array<vec4<f32>, 4>;
    var acc5: array<vec4<f32>, 4>;
    var acc6: array<vec4<f32>, 4>;
    var acc7: array<vec4<f32>, 4>;

    for (var n4 = 0u; n4 < row4; n4++) {
        var w: array<mat4x4<f32>, 4>;
        for (var c = 0u; c < CHUNKS; c++) {
            let at = 4u * n4 * row_chunks + min(first_chunk + c, row_chunks - 1u);
            let row0 = open_chunk(fetch_chunk(at), first_vec4);
            let row1 = open_chunk(fetch_chunk(at + row_chunks), first_vec4);
            let row2 = open_chunk(fetch_chunk(at + 2u * row_chunks), first_vec4);
            let row3 = open_chunk(fetch_chunk(at + 3u * row_chunks), first_vec4);
            for (var g = 0u; g < CHUNK_VEC4S; g++) {
                w[c * CHUNK_VEC4S + g] = mat4x4<f32>(weight4(row0, g), weight4(row1, g), weight4(row2, g), weight4(row3, g));
            }
        }
        step(&acc0, dy[y0 + n4], &w);
        step(&acc1, dy[y1 + n4], &w);
        step(&acc2, dy[y2 + n4], &w);
        step(&acc3, dy[y3 + n4], &w);
        step(&acc4, dy[y4 + n4], &w);
        step(&acc5, dy[y5 + n4], &w);
        step(&acc6, dy[y6 + n4], &w);
        step(&acc7, dy[y7 + n4], &w);
    }

    store(token, input, &acc0);
    store(token + 1u, input, &acc1);
    store(token + 2u, input, &acc2);
    store(token + 3u, input, &acc3);
    store(token + 4u, input, &acc4);
    store(token + 5u, input, &acc5);
    store(token + 6u, input, &acc6);
    store(token + 7u, input, &acc7);
}
