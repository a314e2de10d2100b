// Picks rows, and puts gradients of picked rows back. One invocation an element.
//!include shared/elements.wgsl

struct Params {
    picked: u32,
    cols: u32,
}

@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    let row = i / params.cols;
    if row < params.picked {
        y[i] = x[rows[row] * params.cols + i % params.cols];
    }
}

// No two picked rows are the same one, so that no two invocations write the same element.
@compute @workgroup_size(LANES)
fn backward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    let row = i / params.cols;
    if row < params.picked {
        dx[rows[row] * params.cols + i % params.cols] = dy[i];
    }
}
