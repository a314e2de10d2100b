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
const CHUNK_VEC4S: u32 = min(CHUNK, INPUTS) / 4u;

// One token's products with four rows of W: `w[g]` holds those rows' four inputs g as its columns.
fn step(acc: ptr<function, array<vec4<f32>, 4>>, outputs: vec4<f32>, w: ptr<function, array<mat4x4<f32>, 4>>) {
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable indexes.
    (*acc)[0] += (*w)[0] * outputs;
    (*acc)[1] += (*w)[1] * outputs;
    (*acc)[2] += (*w)[2] * outputs;
    (*acc)[3] += (*w)[3] * outputs;
}

fn store4(token: u32, input: u32, acc: vec4<f32>) {
    if input >= params.in_features {
        return;
    }
    let at = (token * params.in_features + input) / 4u;
    var value = params.alpha * acc;
    if params.beta != 0.0 {
        value += params.beta * dx[at];
    }
    dx[at] = value;
}

fn store(token: u32, input: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if token >= params.tokens {
        return;
    }
    store4(token, input, (*acc)[0]);
    store4(token, input + 4u, (*acc)[1]);
    store4(token, input + 8u, (*acc)[2]);
    store4(token, input + 12u, (*acc)[3]);
}

// Vec4 g of the 16 inputs, of four rows of W that begin at chunk `at`.
fn weights_of_four(at: u32, first_chunk: u32, first_vec4: u32, g: u32) -> mat4x4<f32> {
    let row_chunks = params.in_features / CHUNK;
    let chunk = at + min(first_chunk + g / CHUNK_VEC4S, row_chunks - 1u);
    let i = g % CHUNK_VEC4S;
    return mat4x4<f32>(
        weight4(open_chunk(fetch_chunk(chunk), first_vec4), i),
        weight4(open_chunk(fetch_chunk(chunk + row_chunks), first_vec4), i),
        weight4(open_chunk(fetch_chunk(chunk + 2u * row_chunks), first_vec4), i),
        weight4(open_chunk(fetch_chunk(chunk + 3u * row_chunks), first_vec4), i),
    );
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
        let at = 4u * n4 * row_chunks;
        var w = array<mat4x4<f32>, 4>(
            weights_of_four(at, first_chunk, first_vec4, 0u),
            weights_of_four(at, first_chunk, first_vec4, 1u),
            weights_of_four(at, first_chunk, first_vec4, 2u),
            weights_of_four(at, first_chunk, first_vec4, 3u),
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

    // One store in the code instead of eight: its many checks are what a browser's compiler spends its memory on.
    for (var t = 0u; t < TOKENS; t++) {
        var acc = acc0;
        switch t {
            case 1u: { acc = acc1; }
            case 2u: { acc = acc2; }
            case 3u: { acc = acc3; }
            case 4u: { acc = acc4; }
            case 5u: { acc = acc5; }
            case 6u: { acc = acc6; }
            case 7u: { acc = acc7; }
            default: {}
        }
        store(token + t, input, &acc);
    }
}
