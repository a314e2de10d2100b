// What the tiled attention kernels share. A workgroup holds a tile of `rows` x `cols` scores: rows
// are what it writes, columns are what it runs over. rows · cols = 2,048, and rows · D <= 2,048, so
// that 64 invocations take
// - 4 rows x 8 columns of scores each, and
// - 8 rows x one chunk of four of the head's D numbers each, when the scores are multiplied with
//   another matrix.
// Each load then serves 16 or 32 products, and the few barriers lie far apart, which suits software
// drivers too.

struct Params {
    tokens: u32,   // rows of q
    heads: u32,    // Q
    kv_heads: u32, // K
    width: u32,    // D / 4
    rows: u32,     // a multiple of 8, at most 32
    cols: u32,
    past: u32,     // keys before the first query
    scale: f32,
    causal: u32,   // 1: a query sees no later keys than its own
    window: u32,   // keys that a query sees at most to each side, its own among them
    scaled: u32,   // 1: the scale is given, 0: it is 1/√D
    cap: f32,      // scores s become cap·tanh(s / cap); 0: there is no cap
    span: u32,     // key j lies in row j mod span
}

//!include shared/soft_cap.wgsl

const LANES = 64u;
const MAX_ROWS = 32u;

// Stands for a score that does not count.
const NONE = -1e30;

@group(0) @binding(0) var<uniform> params: Params;

// rows x (cols / 4 + 1): the odd stride keeps rows apart in memory banks.
var<workgroup> tile: array<vec4<f32>, 544>;

fn tile_stride() -> u32 {
    return params.cols / 4u + 1u;
}

// Eight consecutive columns of a row.
fn keep(row: u32, col: u32, low: vec4<f32>, high: vec4<f32>) {
    let at = row * tile_stride() + col / 4u;
    tile[at] = low;
    tile[at + 1u] = high;
}

// Four columns of four rows, a row each.
fn fetch(row: u32, chunk: u32) -> mat4x4<f32> {
    let stride = tile_stride();
    let at = row * stride + chunk;
    return mat4x4<f32>(tile[at], tile[at + stride], tile[at + 2u * stride], tile[at + 3u * stride]);
}

// Four consecutive numbers that end at `last`.
fn up_to(first: u32, last: u32) -> vec4<u32> {
    return min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(last));
}

// The first of the keys from `first` on that are within the window of a query, and of the queries
// that are within that of a key.
fn within(first: vec4<u32>, place: vec4<u32>) -> vec4<u32> {
    return max(first, place + 1u - min(vec4<u32>(params.window), place + 1u));
}

// The last of the keys before `end` that a query sees.
fn last_seen(place: vec4<u32>, end: vec4<u32>) -> vec4<u32> {
    if params.causal == 1u {
        return place;
    }
    return place + min(vec4<u32>(params.window - 1u), end - 1u - place);
}

// Scores as the softmax takes them, of products q·k.
fn scores_of(products: vec4<f32>) -> vec4<f32> {
    if params.cap == 0.0 {
        return products * params.scale;
    }
    return params.cap * tanh_of(products * params.scale / params.cap);
}

// How steeply they rise with the products.
fn slopes_of(products: vec4<f32>) -> vec4<f32> {
    if params.cap == 0.0 {
        return vec4<f32>(params.scale);
    }
    let t = tanh_of(products * params.scale / params.cap);
    return params.scale * (1.0 - t * t);
}

// Where a head of these tokens starts, in chunks of four.
fn q_at(tokens: vec4<u32>, head: u32) -> vec4<u32> {
    return (tokens * params.heads + head) * params.width;
}

fn kv_at(tokens: vec4<u32>, head: u32) -> vec4<u32> {
    return (tokens * params.kv_heads + head) * params.width;
}
