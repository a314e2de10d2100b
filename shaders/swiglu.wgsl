// The gated activation f(gate) * up. One invocation an element.
//!include shared/elements.wgsl
//!include shared/sigmoid.wgsl
//!include shared/normal.wgsl

struct Params {
    len: u32,
    kind: u32, // 0: SiLU, 1: GELU by tanh, 2: GELU by the error function
}

@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(5) var<storage, read_write> dup: array<f32>;

// (s, f') of f(x) = x·s, s = σ(u(x)) or Φ(x).
fn steepness(x: f32) -> vec2<f32> {
    if params.kind == 0u {
        let s = sigmoid(x);
        return vec2<f32>(s, s * (1.0 + x * (1.0 - s)));
    }
    if params.kind == 2u {
        let s = normal_cdf(x);
        return vec2<f32>(s, s + x * normal_density(x));
    }
    let s = sigmoid(1.5957691 * (x + 0.044715 * x * x * x));
    return vec2<f32>(s, s * (1.0 + x * (1.0 - s) * 1.5957691 * (1.0 + 0.134145 * x * x)));
}

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        y[i] = gate[i] * steepness(gate[i]).x * up[i];
    }
}

@compute @workgroup_size(LANES)
fn backward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        let s = steepness(gate[i]);
        dgate[i] = dy[i] * up[i] * s.y;
        dup[i] = dy[i] * gate[i] * s.x;
    }
}
