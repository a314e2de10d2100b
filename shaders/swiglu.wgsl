// The gated activation silu(gate) * up. One invocation an element.
//!include shared/elements.wgsl
//!include shared/sigmoid.wgsl

struct Params {
    len: u32,
}

@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(5) var<storage, read_write> dup: array<f32>;

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

@compute @workgroup_size(LANES)
fn backward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        let s = sigmoid(gate[i]);
        dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
        dup[i] = dy[i] * gate[i] * s;
    }
}
