// linear_nt for real cards: a workgroup of 128 makes 64 tokens × 64 outputs from tiles of 32 inputs
// in workgroup memory, where the weight is decoded once for 64 tokens.
//
// Per invocation 8 × 4 results in registers: 12 vec4 loads of workgroup memory for 128
// multiply-adds (1.5 bytes each, and the tokens' loads are the same address for 16 lanes). Each
// input is fetched once a tile of 64: 16 multiply-adds a byte in f32. About 100 registers and 16
// KiB let 4 to 6 workgroups share a compute unit of 64 to 100 KiB. The next tile's loads are issued
// before the present tile's sums, which hide them.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.rows);
}

const LANES: u32 = 128u;
const TILE: u32 = 64u;
const DEPTH4: u32 = 8u; // inputs of a tile, in vec4
// A lane decodes 16 neighbours of one row: half a chunk, a whole one, or four chunks of different
// rows.
const WEIGHT_LOADS: u32 = max(16u / CHUNK, 1u);
const LANES_PER_ROW: u32 = 2u * WEIGHT_LOADS;

// [row][input / 4], mixed so that eight lanes side by side touch every bank once, reading or
// writing. In f16 the tiles take half of the memory and of its bandwidth.
alias Real = {{REAL}};
var<workgroup> x_tile: array<vec4<Real>, 512>;
var<workgroup> w_tile: array<vec4<Real>, 512>;

fn x_slot(row: u32, v: u32) -> u32 {
    return row * DEPTH4 + (v ^ (row % 8u));
}

fn w_slot(row: u32, v: u32) -> u32 {
    return row * DEPTH4 + (v ^ (row / 4u % 8u));
}

// The tile's row of a lane's load l of W.
fn w_row(lane: u32, l: u32) -> u32 {
    if WEIGHT_LOADS == 1u {
        return lane / 2u % 16u * 4u + lane / 32u;
    }
    return lane / LANES_PER_ROW + LANES / LANES_PER_ROW * l;
}

// Where a lane's part of each row begins: four rows of x, 16 apart, and of W.
struct Starts { x: vec4<u32>, w: array<u32, WEIGHT_LOADS> }

// As loaded. Nothing is done with it before the sums that the loads hide behind.
struct Fetched { x: array<vec4<f32>, 4>, w: array<PackedChunk, WEIGHT_LOADS> }

fn starts(token: u32, output: u32, lane: u32) -> Starts {
    var at: Starts;
    // Beyond the last token or output, the last ones are computed again and not stored.
    let first = vec4<u32>(token + lane / DEPTH4) + vec4<u32>(0u, 16u, 32u, 48u);
    at.x = min(first, vec4<u32>(params.tokens - 1u)) * (params.cols / 4u);
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        at.w[l] = min(output + w_row(lane, l), params.rows - 1u) * (params.cols / CHUNK);
    }
    return at;
}

fn fetch(at: ptr<function, Starts>, depth4: u32, lane: u32) -> Fetched {
    var fetched: Fetched;
    // Beyond the last input the last ones are loaded, and `put` drops those of x.
    let v = min(depth4 + lane % DEPTH4, params.cols / 4u - 1u);
    for (var l = 0u; l < 4u; l++) {
        fetched.x[l] = x[(*at).x[l] + v];
    }
    let chunk = (depth4 + lane % LANES_PER_ROW * (DEPTH4 / LANES_PER_ROW)) * 4u / CHUNK;
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        fetched.w[l] = fetch_chunk((*at).w[l] + min(chunk, params.cols / CHUNK - 1u));
    }
    return fetched;
}

fn put(fetched: ptr<function, Fetched>, depth4: u32, lane: u32) {
    let inside = depth4 + lane % DEPTH4 < params.cols / 4u;
    let x_at = x_slot(lane / DEPTH4, lane % DEPTH4);
    for (var l = 0u; l < 4u; l++) {
        x_tile[x_at + 16u * DEPTH4 * l] = vec4<Real>(select(vec4<f32>(0.0), (*fetched).x[l], inside));
    }
    let first = lane % LANES_PER_ROW * (DEPTH4 / LANES_PER_ROW);
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        let chunk = open_chunk((*fetched).w[l], first % (CHUNK / 4u));
        for (var i = 0u; i < 4u / WEIGHT_LOADS; i++) {
            w_tile[w_slot(w_row(lane, l), first + i)] = vec4<Real>(weight4(chunk, i));
        }
    }
}

//!include shared/step_{REAL}.wgsl

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * TILE;
    let output = group.y * TILE;
    let column = lane % 16u * 4u; // outputs column ..
    let row = lane / 16u;         // tokens row + 8 i
    var acc0: vec4<f32>;
    var acc1: vec4<f32>;
    var acc2: vec4<f32>;
    var acc3: vec4<f32>;
    var acc4: vec4<f32>;
    var acc5: vec4<f32>;
    var acc6: vec4<f32>;
    var acc7: vec4<f32>;

    let row4 = params.cols / 4u;
    var at = starts(token, output, lane);
    var fetched = fetch(&at, 0u, lane);
    for (var depth4 = 0u; depth4 < row4; depth4 += DEPTH4) {
        put(&fetched, depth4, lane);
        workgroupBarrier();
        if depth4 + DEPTH4 < row4 {
            fetched = fetch(&at, depth4 + DEPTH4, lane);
        }
        for (var v = 0u; v < DEPTH4; v += RUN4) {
            // Tokens 8 apart, and four neighbouring outputs, have their slots at one distance.
            let x_at = x_slot(row, v);
            let w = weights(w_slot(column, v));
            let x0 = inputs(x_at);
            let x1 = inputs(x_at + 8u * DEPTH4);
            let x2 = inputs(x_at + 16u * DEPTH4);
            let x3 = inputs(x_at + 24u * DEPTH4);
            acc0 = step(acc0, x0, w);
            acc1 = step(acc1, x1, w);
            let x4 = inputs(x_at + 32u * DEPTH4);
            let x5 = inputs(x_at + 40u * DEPTH4);
            acc2 = step(acc2, x2, w);
            acc3 = step(acc3, x3, w);
            let x6 = inputs(x_at + 48u * DEPTH4);
            let x7 = inputs(x_at + 56u * DEPTH4);
            acc4 = step(acc4, x4, w);
            acc5 = step(acc5, x5, w);
            acc6 = step(acc6, x6, w);
            acc7 = step(acc7, x7, w);
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
