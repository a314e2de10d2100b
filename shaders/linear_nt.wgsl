// y[M, N] = alpha x[M, K] W[N, K]ᵀ + beta y, the weight decoded on the way. beta = 0 does not read y.
//
// No workgroup memory: an invocation keeps 8 tokens × 16 outputs in registers, so that each load, which is what costs
// on a software driver, serves 8 or 16 products, and a quantised chunk is decoded once for 8 tokens.

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
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

const TOKENS: u32 = 8u;
const OUTPUTS: u32 = 16u;

// One token's products with four inputs: a row of `w[g]` in, four outputs of `acc[g]`.
fn step(acc: ptr<function, array<vec4<f32>, 4>>, inputs: vec4<f32>, w: ptr<function, array<mat4x4<f32>, 4>>) {
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable indexes.
    (*acc)[0] += inputs * (*w)[0];
    (*acc)[1] += inputs * (*w)[1];
    (*acc)[2] += inputs * (*w)[2];
    (*acc)[3] += inputs * (*w)[3];
}

fn store4(token: u32, output: u32, acc: vec4<f32>) {
    if output >= params.out_features {
        return;
    }
    let at = (token * params.out_features + output) / 4u;
    var value = params.alpha * acc;
    if params.beta != 0.0 {
        value += params.beta * y[at];
    }
    y[at] = value;
}

fn store(token: u32, output: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if token >= params.tokens {
        return;
    }
    store4(token, output, (*acc)[0]);
    store4(token, output + 4u, (*acc)[1]);
    store4(token, output + 8u, (*acc)[2]);
    store4(token, output + 12u, (*acc)[3]);
}

// The chunk of four neighbouring outputs.
fn load_four(output: u32, c: u32) -> array<Chunk, 4> {
    let last = params.out_features - 1u;
    let row_chunks = params.in_features / CHUNK;
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
    let token = id.x * TOKENS;
    let output = id.y * OUTPUTS;
    if token >= params.tokens || output >= params.out_features {
        return;
    }
    let row_chunks = params.in_features / CHUNK;
    let row4 = params.in_features / 4u;
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
    var acc0: array<vec4<f32>, 4>;
    var acc1: array<vec4<f32>, 4>;
    var acc2: array<vec4<f32>, 4>;
    var acc3: array<vec4<f32>, 4>;
    var acc4: array<vec4<f32>, 4>;
    var acc5: array<vec4<f32>, 4>;
    var acc6: array<vec4<f32>, 4>;
    var acc7: array<vec4<f32>, 4>;

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
        store(token + t, output, &acc);
    }
}
