// linear_nn for real cards: a workgroup of 128 makes 64 tokens × 64 inputs from tiles of 32 rows of
// W in workgroup memory. The arithmetic is that of linear_nt_tile: 12 vec4 loads of workgroup
// memory for 128 multiply-adds.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.cols);
}

const LANES: u32 = 128u;
const TILE: u32 = 64u;
const TILE4: u32 = 16u;  // inputs of a tile, in vec4
const DEPTH4: u32 = 8u;  // rows of W in a tile, in vec4
// A lane decodes 16 neighbours of one row: half a chunk, a whole one, or four chunks of different
// rows.
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

// Where a lane's part of each row begins: four rows of dy, 16 apart; and its column of W, in
// chunks.
struct Starts { y: vec4<u32>, w: u32 }

// As loaded. Nothing is done with it before the sums that the loads hide behind.
struct Fetched { y: array<vec4<f32>, 4>, w: array<PackedChunk, WEIGHT_LOADS> }

fn starts(token: u32, input: u32, lane: u32) -> Starts {
    // Beyond the last token or input, the last ones are computed again and not stored.
    let first = vec4<u32>(token + lane / DEPTH4) + vec4<u32>(0u, 16u, 32u, 48u);
    let chunk = (input + lane % LANES_PER_ROW * (TILE / LANES_PER_ROW)) / CHUNK;
    return Starts(
        min(first, vec4<u32>(params.tokens - 1u)) * (params.rows / 4u),
        min(chunk, params.cols / CHUNK - 1u),
    );
}

fn fetch(at: Starts, depth4: u32, lane: u32) -> Fetched {
    var fetched: Fetched;
    // Beyond the last row of W the last ones are loaded, and `put` drops those of dy.
    let v = min(depth4 + lane % DEPTH4, params.rows / 4u - 1u);
    for (var l = 0u; l < 4u; l++) {
        fetched.y[l] = dy[at.y[l] + v];
    }
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        let row = depth4 * 4u + lane / LANES_PER_ROW + LANES / LANES_PER_ROW * l;
        fetched.w[l] = fetch_chunk(min(row, params.rows - 1u) * (params.cols / CHUNK) + at.w);
    }
    return fetched;
}

fn put(fetched: ptr<function, Fetched>, depth4: u32, lane: u32) {
    let inside = depth4 + lane % DEPTH4 < params.rows / 4u;
    let y_at = y_slot(lane / DEPTH4, lane % DEPTH4);
    for (var l = 0u; l < 4u; l++) {
        y_tile[y_at + 16u * DEPTH4 * l] = select(vec4<f32>(0.0), (*fetched).y[l], inside);
    }
    let first = lane % LANES_PER_ROW * (TILE4 / LANES_PER_ROW);
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        let row = lane / LANES_PER_ROW + LANES / LANES_PER_ROW * l;
        let chunk = open_chunk((*fetched).w[l], first % (CHUNK / 4u));
        for (var i = 0u; i < 4u / WEIGHT_LOADS; i++) {
            w_tile[w_slot(row, first + i)] = weight4(chunk, i);
        }
    }
}

fn step(acc: vec4<f32>, outputs: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    let low = fma(vec4<f32>(outputs.y), w[1], fma(vec4<f32>(outputs.x), w[0], acc));
    return fma(vec4<f32>(outputs.w), w[3], fma(vec4<f32>(outputs.z), w[2], low));
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

    let row4 = params.rows / 4u;
    let at = starts(token, input, lane);
    var fetched = fetch(at, 0u, lane);
    for (var depth4 = 0u; depth4 < row4; depth4 += DEPTH4) {
        put(&fetched, depth4, lane);
        workgroupBarrier();
        if depth4 + DEPTH4 < row4 {
            fetched = fetch(at, depth4 + DEPTH4, lane);
        }
        for (var v = 0u; v < DEPTH4; v++) {
            // Tokens 8 apart, and every other row of W, have their slots at one distance.
            let y_at = y_slot(row, v);
            let even = w_slot(4u * v, column);
            let odd = w_slot(4u * v + 1u, column);
            let w = mat4x4<f32>(w_tile[even], w_tile[odd], w_tile[even + 2u * TILE4], w_tile[odd + 2u * TILE4]);
            let y0 = y_tile[y_at];
            let y1 = y_tile[y_at + 8u * DEPTH4];
            let y2 = y_tile[y_at + 16u * DEPTH4];
            let y3 = y_tile[y_at + 24u * DEPTH4];
            acc0 = step(acc0, y0, w);
            acc1 = step(acc1, y1, w);
            let y4 = y_tile[y_at + 32u * DEPTH4];
            let y5 = y_tile[y_at + 40u * DEPTH4];
            acc2 = step(acc2, y2, w);
            acc3 = step(acc3, y3, w);
            let y6 = y_tile[y_at + 48u * DEPTH4];
            let y7 = y_tile[y_at + 56u * DEPTH4];
            acc4 = step(acc4, y4, w);
            acc5 = step(acc5, y5, w);
            acc6 = step(acc6, y6, w);
            acc7 = step(acc7, y7, w);
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
