// Attention of a few new tokens over a cache, of one text or of several, a token and head a
// workgroup.
//!include shared/grid.wgsl
//!include shared/reduce.wgsl
//!include shared/soft_cap.wgsl

struct Params {
    tokens: u32,   // new ones
    heads: u32,    // Q
    kv_heads: u32, // K
    width: u32,    // D / 4, at most 64
    rows: u32,     // not used here
    cols: u32,     // not used here
    past: u32,     // not used here
    scale: f32,
    causal: u32,   // not used here
    window: u32,   // keys that a query sees at most
    scaled: u32,   // not used here
    cap: f32,      // scores s become cap·tanh(s / cap); 0: there is no cap
    span: u32,     // rows of a slot: position p lies in row p mod span of its slot
}

const KEYS = 256u; // scored at a time, four a lane
const NONE = -1e30;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> places: array<vec2<u32>>; // slot and position of each token

var<workgroup> weights: array<vec4<f32>, LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;

// The rows, in their slot, of positions from `round` on, a multiple of the span: those that are
// seen go over the slot's end once at most.
fn rows_of(positions: vec4<u32>, round: u32) -> vec4<u32> {
    let rows = positions - round;
    return min(rows, rows - params.span);
}

@compute @workgroup_size(LANES)
fn decode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = flat_group(group, groups);
    let head = index % params.heads;
    let token = index / params.heads;
    if token >= params.tokens {
        return;
    }
    let kv_head = head / (params.heads / params.kv_heads);
    let width = params.width;
    let query = (token * params.heads + head) * width;
    let end = places[token].y + 1u;
    let begin = end - min(params.window, end);
    let round = begin / params.span * params.span;
    let stride = params.kv_heads * width;
    let slot = (places[token].x * params.span * params.kv_heads + kv_head) * width;

    // Each lane adds one chunk of the head over every `parts`-th four keys.
    let parts = LANES / width;
    let chunk = lane % width;
    let part = lane / width;
    var acc = vec4<f32>(0.0);
    var m = NONE;
    var sum = 0.0;
    for (var block = begin; block < end; block += KEYS) {
        let first = block + 4u * lane;
        let keys = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
        let at = rows_of(min(keys, vec4<u32>(end - 1u)), round) * stride + slot;
        var scores = vec4<f32>(0.0);
        for (var d = 0u; d < width; d++) {
            scores += q[query + d] * mat4x4<f32>(k[at.x + d], k[at.y + d], k[at.z + d], k[at.w + d]);
        }
        scores *= params.scale;
        if params.cap != 0.0 {
            scores = params.cap * tanh_of(scores / params.cap);
        }
        scores = select(vec4<f32>(NONE), scores, keys < vec4<u32>(end));
        let largest = max_lanes(lane, max(m, max(max(scores.x, scores.y), max(scores.z, scores.w))));
        let decay = exp(m - largest);
        m = largest;
        let e = exp(scores - m);
        sum = sum * decay + (e.x + e.y) + (e.z + e.w);
        weights[lane] = e;
        workgroupBarrier();
        acc *= decay;
        let fours = (min(KEYS, end - block) + 3u) / 4u;
        if part < parts {
            for (var i = part; i < fours; i += parts) {
                let key = block + 4u * i;
                let keys = min(vec4<u32>(key, key + 1u, key + 2u, key + 3u), vec4<u32>(end - 1u));
                let row = rows_of(keys, round) * stride + slot + chunk;
                acc += mat4x4<f32>(v[row.x], v[row.y], v[row.z], v[row.w]) * weights[i];
            }
        }
        // The barrier in the next block's max_lanes comes before the next write of `weights`.
    }
    let total = sum_lanes(lane, sum);
    sums[lane] = acc;
    workgroupBarrier();
    if lane < width {
        var value = vec4<f32>(0.0);
        for (var i = 0u; i < parts; i++) {
            value += sums[i * width + lane];
        }
        o[query + lane] = value / total;
    }
}
