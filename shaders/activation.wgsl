// The activation of BERT-like feed-forward blocks, behind the bias of the layer before it. One
// invocation an element.
//!include shared/elements.wgsl
//!include shared/sigmoid.wgsl
//!include shared/normal.wgsl

struct Params {
    len: u32,
    cols: u32,
    kind: u32, // 0: GELU by the error function, 1: GELU by tanh, 2: ReLU
}

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

// (f(x), f'(x)); 0.5·(1 + tanh(u)) = σ(2u).
fn value_and_slope(x: f32) -> vec2<f32> {
    if params.kind == 0u {
        let cdf = normal_cdf(x);
        return vec2<f32>(x * cdf, cdf + x * normal_density(x));
    }
    if params.kind == 1u {
        let s = sigmoid(1.5957691 * (x + 0.044715 * x * x * x));
        return vec2<f32>(x * s, s + x * s * (1.0 - s) * 1.5957691 * (1.0 + 0.134145 * x * x));
    }
    return select(vec2<f32>(0.0), vec2<f32>(x, 1.0), x > 0.0);
}

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        y[i] = value_and_slope(x[i] + bias[i % params.cols]).x;
    }
}

@compute @workgroup_size(LANES)
fn backward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i < params.len {
        dx[i] = dy[i] * value_and_slope(x[i] + bias[i % params.cols]).y;
    }
}
