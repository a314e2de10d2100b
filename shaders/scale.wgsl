// A multiple, in place. One invocation an element.
//!include shared/elements.wgsl

struct Params {
    len: u32,
    factor: f32,
}

@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(LANES)
fn scale(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        x[i] *= params.factor;
    }
}
