// Sums: of two tensors, and of a row to every row. One invocation an element.
//!include shared/elements.wgsl

struct Params {
    len: u32,
    cols: u32,
}

@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(LANES)
fn residual(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        y[i] = a[i] + b[i];
    }
}

@compute @workgroup_size(LANES)
fn add_bias(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        x[i] += bias[i % params.cols];
    }
}
