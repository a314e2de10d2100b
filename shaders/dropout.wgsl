// Dropout whose mask is a function of a key and an element's index: nothing is kept for the
// gradient.
//!include shared/elements.wgsl
//!include shared/philox.wgsl

struct Params {
    len: u32,
    threshold: u32, // an element whose random word lies below it is dropped
    scale: f32,     // 1 / (1 - p)
    accumulate: u32, // 1: is added to y, 0: overwrites it
    key: vec4<u32>, // seed, low and high word; stream; pass
}

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// What four consecutive elements are multiplied by.
fn factors(four: u32) -> vec4<f32> {
    let words = philox(vec4<u32>(four, params.key.z, params.key.w, 0u), params.key.xy);
    return select(vec4<f32>(0.0), vec4<f32>(params.scale), words >= vec4<u32>(params.threshold));
}

fn put(i: u32, factor: f32) {
    if i >= params.len {
        return;
    }
    let value = select(0.0, x[i] * factor, factor != 0.0);
    if params.accumulate == 1u {
        y[i] += value;
    } else {
        y[i] = value;
    }
}

@compute @workgroup_size(LANES)
fn apply(at: Place) {
    let four = element(at.group, at.groups, at.lane);
    let factor = factors(four);
    put(4u * four, factor.x);
    put(4u * four + 1u, factor.y);
    put(4u * four + 2u, factor.z);
    put(4u * four + 3u, factor.w);
}
