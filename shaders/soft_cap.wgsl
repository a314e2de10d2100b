// A soft cap of logits, in place, and what its slope does to the head's gradient. One invocation an
// element.
//!include shared/elements.wgsl
//!include shared/soft_cap.wgsl

struct Params {
    len: u32,
    cols: u32, // multiply_rows: columns of x
    cap: f32,
}

@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> slope: array<f32>;
@group(0) @binding(2) var<storage, read> slope_read: array<f32>;
// (m, s, l_y, rescale) of each row.
@group(0) @binding(2) var<storage, read> state: array<vec4<f32>>;

fn capped(value: f32) -> f32 {
    return params.cap * tanh_of(vec4<f32>(value / params.cap)).x;
}

@compute @workgroup_size(LANES)
fn cap(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        x[i] = capped(x[i]);
    }
}

@compute @workgroup_size(LANES)
fn cap_and_slope(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        let y = capped(x[i]);
        x[i] = y;
        slope[i] = 1.0 - (y / params.cap) * (y / params.cap);
    }
}

@compute @workgroup_size(LANES)
fn multiply(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        x[i] *= slope_read[i];
    }
}

@compute @workgroup_size(LANES)
fn multiply_rows(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        let t = state[i / params.cols].z / params.cap;
        x[i] *= 1.0 - t * t;
    }
}
