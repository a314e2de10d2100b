// linear_nn for real cards: a workgroup of 128 makes 64 tokens × 64 inputs from tiles of 32 rows of W in workgroup
// memory. The arithmetic is that of linear_nt_tile: 12 vec4 loads of workgroup memory for 128 multiply-adds.

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

const LANES: u32 = 128u;
const TILE: u32 = 64u;
const TILE4: u32 = 16u;  // inputs of a tile, in vec4
const DEPTH4: u32 = 8u;  // rows of W in a tile, in vec4
// A lane decodes 16 neighbours of one row: half a chunk, a whole one, or four chunks of different rows.
const WEIGHT_LOADS: u32 = max(16u / CHUNK, 1u);
const LANES_PER_ROW: u32 = TILE * WEIGHT_LOADS / 16u;

// Slots are mixed so that eight lanes reading or writing side by side touch every bank once.
var<workgroup> y_tile: array<vec4<f32>, 512>; // [token][row of W / 4]
var<workgroup> w_tile: array<vec4<f32>, 512>; // [row of W][input / 4]

fn y_slot(token: u32, v: u32) -> u32 {
    return token * DEPTH4 + (v ^ (token & 7u));
}

fn w_slot(row: u32, v: u32) -> u32 {
    return row * TILE4 + (v ^ ((v >> 2u) & 3u) ^ (row & 1u));
}

struct Fetched { y: array<vec4<f32>, 4>, w: array<Chunk, WEIGHT_LOADS> }

fn fetch(token: u32, input: u32, depth4: u32, lane: u32) -> Fetched {
    var fetched: Fetched;
    let row4 = params.out_features / 4u;
    let row_chunks = params.in_features / CHUNK;
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * l;
        let v = depth4 + at % DEPTH4;
        if v < row4 {
            fetched.y[l] = dy[min(token + at / DEPTH4, params.tokens - 1u) * row4 + v];
        }
    }
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        let at = lane + LANES * l;
        let row = depth4 * 4u + at / LANES_PER_ROW;
        let chunk = (input + at % LANES_PER_ROW * (TILE / LANES_PER_ROW)) / CHUNK;
        if row < params.out_features && chunk < row_chunks {
            fetched.w[l] = load_chunk(row * row_chunks + chunk);
        }
    }
    return fetched;
}

fn put(fetched: ptr<function, Fetched>, lane: u32) {
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * l;
        y_tile[y_slot(at / DEPTH4, at % DEPTH4)] = (*fetched).y[l];
    }
    for (var l = 0u; l < 4u; l++) {
        let at = lane + LANES * (l % WEIGHT_LOADS);
        let v = at % LANES_PER_ROW * (TILE4 / LANES_PER_ROW) + l / WEIGHT_LOADS;
        w_tile[w_slot(at / LANES_PER_ROW, v)] = weight4((*fetched).w[l % WEIGHT_LOADS], v % (CHUNK / 4u));
    }
}

fn step(acc: vec4<f32>, outputs: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    let low = fma(vec4<f32>(outputs.y), w[1], fma(vec4<f32>(outputs.x), w[0], acc));
    return fma(vec4<f32>(outputs.w), w[3], fma(vec4<f32>(outputs.z), w[2], low));
}

fn store(token: u32, input: u32, acc: vec4<f32>) {
    if token >= params.tokens || input >= params.in_features {
        return;
    }
    let at = (token * params.in_features + input) / 4u;
    var value = params.alpha * acc;
    if params.beta != 0.0 {
        value += params.beta * dx[at];
    }
    dx[at] = value;
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * TILE;
    let input = group.y * TILE;
    let column = lane % TILE4; // inputs 4 column ..
    let row = lane / TILE4;    // tokens row + 8 i
    var acc0: vec4<f32>;
    var acc1: vec4<f32>;
    var acc2: vec4<f32>;
    var acc3: vec4<f32>;
    var acc4: vec4<f32>;
    var acc5: vec4<f32>;
    var acc6: vec4<f32>;
    var acc7: vec4<f32>;

    let row4 = params.out_features / 4u;
    var fetched = fetch(token, input, 0u, lane);
    for (var depth4 = 0u; depth4 < row4; depth4 += DEPTH4) {
        put(&fetched, lane);
        workgroupBarrier();
        if depth4 + DEPTH4 < row4 {
            fetched = fetch(token, input, depth4 + DEPTH4, lane);
        }
        for (var v = 0u; v < DEPTH4; v++) {
            let w = mat4x4<f32>(
                w_tile[w_slot(4u * v, column)],
                w_tile[w_slot(4u * v + 1u, column)],
                w_tile[w_slot(4u * v + 2u, column)],
                w_tile[w_slot(4u * v + 3u, column)],
            );
            acc0 = step(acc0, y_tile[y_slot(row, v)], w);
            acc1 = step(acc1, y_tile[y_slot(row + 8u, v)], w);
            acc2 = step(acc2, y_tile[y_slot(row + 16u, v)], w);
            acc3 = step(acc3, y_tile[y_slot(row + 24u, v)], w);
            acc4 = step(acc4, y_tile[y_slot(row + 32u, v)], w);
            acc5 = step(acc5, y_tile[y_slot(row + 40u, v)], w);
            acc6 = step(acc6, y_tile[y_slot(row + 48u, v)], w);
            acc7 = step(acc7, y_tile[y_slot(row + 56u, v)], w);
        }
        workgroupBarrier();
    }

    store(token + row, input + 4u * column, acc0);
    store(token + row + 8u, input + 4u * column, acc1);
    store(token + row + 16u, input + 4u * column, acc2);
    store(token + row + 24u, input + 4u * column, acc3);
    store(token + row + 32u, input + 4u * column, acc4);
    store(token + row + 40u, input + 4u * column, acc5);
    store(token + row + 48u, input + 4u * column, acc6);
    store(token + row + 56u, input + 4u * column, acc7);
}
