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
    for (var g = 0u; g < 4u; g++) {
        (*acc)[g] += inputs * (*w)[g];
    }
}

fn store(token: u32, output: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if token >= params.tokens {
        return;
    }
    for (var g = 0u; g < 4u; g++) {
        if output + 4u * g < params.out_features {
            let at = (token * params.out_features + output) / 4u + g;
            var value = params.alpha * (*acc)[g];
            if params.beta != 0.0 {
                value += params.beta * y[at];
            }
            y[at] = value;
        }
    }
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
        var chunks: array<Chunk, 16>;
        for (var o = 0u; o < 16u; o++) {
            chunks[o] = load_chunk(min(output + o, params.out_features - 1u) * row_chunks + c);
        }
        for (var i = 0u; i < CHUNK / 4u; i++) {
            var w: array<mat4x4<f32>, 4>;
            for (var g = 0u; g < 4u; g++) {
                w[g] = mat4x4<f32>(
                    weight4(chunks[4u * g], i),
                    weight4(chunks[4u * g + 1u], i),
                    weight4(chunks[4u * g + 2u], i),
                    weight4(chunks[4u * g + 3u], i),
                );
            }
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

    store(token, output, &acc0);
    store(token + 1u, output, &acc1);
    store(token + 2u, output, &acc2);
    store(token + 3u, output, &acc3);
    store(token + 4u, output, &acc4);
    store(token + 5u, output, &acc5);
    store(token + 6u, output, &acc6);
    store(token + 7u, output, &acc7);
}
