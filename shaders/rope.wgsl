// Rotary position embedding, in place: halves of a head, or of its first part, are rotated against
// each other. One invocation a pair.
//!include shared/elements.wgsl

struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,  // D
    half: u32,      // R / 2: half of the numbers of a head that rotate
    direction: f32, // 1 forward, -1 backward
}

@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read> cos_sin: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(LANES)
fn rotate(at: Place) {
    let index = element(at.group, at.groups, at.lane);
    let head = index / params.half;
    let token = head / params.heads;
    if token >= params.tokens {
        return;
    }
    let i = index % params.half;
    let table = positions[token] * 2u * params.half;
    let cosine = cos_sin[table + i];
    let sine = params.direction * cos_sin[table + params.half + i];
    let first = head * params.head_dim + i;
    let second = first + params.half;
    let a = x[first];
    let b = x[second];
    x[first] = a * cosine - b * sine;
    x[second] = b * cosine + a * sine;
}
