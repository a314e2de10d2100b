// linear_nt for real cards: a workgroup of 128 makes 64 tokens × 64 outputs from tiles of 32 inputs in workgroup memory,
// where the weight is decoded once for 64 tokens.
//
// Per invocation 8 × 4 results in registers: 12 vec4 loads of workgroup memory for 128 multiply-adds (1.5 bytes each, and
// the tokens' loads are the same address for 16 lanes). Each input is fetched once a tile of 64: 16 multiply-adds a byte
// in f32. About 100 registers and 16 KiB let 4 to 6 workgroups share a compute unit of 64 to 100 KiB. The next tile's
// loads are issued before the present tile's sums, which hide them.

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
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const LANES: u32 = 128u;
const TILE: u32 = 64u;
const DEPTH4: u32 = 8u; // inputs of a tile, in vec4

// Row r's vec4 v lies at slot v ^ (r mod 8), so that eight lanes reading eight rows touch every bank once.
var<workgroup> x_tile: array<vec4<f32>, 512>;
var<workgroup> w_tile: array<vec4<f32>, 512>;

fn slot(row: u32, v: u32) -> u32 {
    return row * DEPTH4 + (v ^ (row & 7u));
}

struct Fetched { x: array<vec4<f32>, 4>, w: array<Chunk, WEIGHT_LOADS> }

// A lane decodes 16 neighbours of one row: half a chunk, a whole one, or four chunks of different rows.
const WEIGHT_LOADS: u32 = max(16u / CHUNK, 1u);

fn fetch(token: u32, output: u32, depth4: u32, lane: u32) -> Fetched {
    var fetched: Fetched;
    let row4 = params.in_features / 4u;
    let row_chunks = params.in_features / CHUNK;
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * l;
        let v = depth4 + at % DEPTH4;
        if v < row4 {
            fetched.x[l] = x[min(token + at / DEPTH4, params.tokens - 1u) * row4 + v];
        }
    }
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        // Lanes of one row lie side by side, so that they fetch neighbouring words.
        let at = lane + LANES * l;
        let per_row = LANES * WEIGHT_LOADS / TILE;
        let chunk = (depth4 + at % per_row * (DEPTH4 / per_row)) * 4u / CHUNK;
        if chunk < row_chunks {
            fetched.w[l] = load_chunk(min(output + at / per_row, params.out_features - 1u) * row_chunks + chunk);
        }
    }
    return fetched;
}

fn put(fetched: ptr<function, Fetched>, lane: u32) {
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * l;
        x_tile[slot(at / DEPTH4, at % DEPTH4)] = (*fetched).x[l];
    }
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * (l % WEIGHT_LOADS);
        let per_row = LANES * WEIGHT_LOADS / TILE;
        let v = at % per_row * (DEPTH4 / per_row) + l / WEIGHT_LOADS;
        w_tile[slot(at / per_row, v)] = weight4((*fetched).w[l % WEIGHT_LOADS], v % (CHUNK / 4u));
    }
}

fn step(acc: vec4<f32>, inputs: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    let low = fma(vec4<f32>(inputs.y), w[1], fma(vec4<f32>(inputs.x), w[0], acc));
    return fma(vec4<f32>(inputs.w), w[3], fma(vec4<f32>(inputs.z), w[2], low));
}

// Outputs 16 apart, so that the lanes of a row write neighbours.
fn store(token: u32, output: u32, acc: vec4<f32>) {
    if token >= params.tokens {
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if output + 16u * j < params.out_features {
            let at = token * params.out_features + output + 16u * j;
            var value = params.alpha * acc[j];
            if params.beta != 0.0 {
                value += params.beta * y[at];
            }
            y[at] = value;
        }
    }
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * TILE;
    let output = group.y * TILE;
    let column = lane % 16u; // outputs column + 16 j
    let row = lane / 16u;    // tokens row + 8 i
    var acc0: vec4<f32>;
    var acc1: vec4<f32>;
    var acc2: vec4<f32>;
    var acc3: vec4<f32>;
    var acc4: vec4<f32>;
    var acc5: vec4<f32>;
    var acc6: vec4<f32>;
    var acc7: vec4<f32>;

    let row4 = params.in_features / 4u;
    var fetched = fetch(token, output, 0u, lane);
    for (var depth4 = 0u; depth4 < row4; depth4 += DEPTH4) {
        put(&fetched, lane);
        workgroupBarrier();
        if depth4 + DEPTH4 < row4 {
            fetched = fetch(token, output, depth4 + DEPTH4, lane);
        }
        for (var v = 0u; v < DEPTH4; v++) {
            let w = transpose(mat4x4<f32>(
                w_tile[slot(column, v)],
                w_tile[slot(column + 16u, v)],
                w_tile[slot(column + 32u, v)],
                w_tile[slot(column + 48u, v)],
            ));
            acc0 = step(acc0, x_tile[slot(row, v)], w);
            acc1 = step(acc1, x_tile[slot(row + 8u, v)], w);
            acc2 = step(acc2, x_tile[slot(row + 16u, v)], w);
            acc3 = step(acc3, x_tile[slot(row + 24u, v)], w);
            acc4 = step(acc4, x_tile[slot(row + 32u, v)], w);
            acc5 = step(acc5, x_tile[slot(row + 40u, v)], w);
            acc6 = step(acc6, x_tile[slot(row + 48u, v)], w);
            acc7 = step(acc7, x_tile[slot(row + 56u, v)], w);
        }
        workgroupBarrier();
    }

    store(token + row, output + column, acc0);
    store(token + row + 8u, output + column, acc1);
    store(token + row + 16u, output + column, acc2);
    store(token + row + 24u, output + column, acc3);
    store(token + row + 32u, output + column, acc4);
    store(token + row + 40u, output + column, acc5);
    store(token + row + 48u, output + column, acc6);
    store(token + row + 56u, output + column, acc7);
}
