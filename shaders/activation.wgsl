// The activation of BERT-like feed-forward blocks, behind the bias of the layer before it. One
// invocation an element.
//!include shared/elements.wgsl
//!include shared/sigmoid.wgsl

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

// erfc(z) of z >= 0: exp of a polynomial in 1 / (1 + z/2), within a few units in the last place.
fn erfc_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    return t * exp(p - z * z);
}

// The normal distribution function.
fn normal_cdf(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(abs(x) * 0.70710678);
    return select(tail, 1.0 - tail, x >= 0.0);
}

// (f(x), f'(x)); 0.5·(1 + tanh(u)) = σ(2u).
fn value_and_slope(x: f32) -> vec2<f32> {
    if params.kind == 0u {
        let cdf = normal_cdf(x);
        return vec2<f32>(x * cdf, cdf + x * 0.39894228 * exp(-0.5 * x * x));
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
