// A vector for each sample of a packed batch, from its tokens' hidden states. One invocation a
// column of a sample.
//!include shared/elements.wgsl

struct Params {
    samples: u32,
    cols: u32,
    kind: u32, // 0: mean over the tokens, 1: the first token's, 2: the last token's
}

@group(0) @binding(1) var<storage, read> segments: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

// The tokens that count: first, one past the last.
fn counted(sample: u32) -> vec2<u32> {
    let first = segments[sample];
    let end = segments[sample + 1u];
    if params.kind == 1u {
        return vec2<u32>(first, min(first + 1u, end));
    }
    if params.kind == 2u {
        return vec2<u32>(max(end, first + 1u) - 1u, end);
    }
    return vec2<u32>(first, end);
}

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i >= params.samples * params.cols {
        return;
    }
    let tokens = counted(i / params.cols);
    var sum = 0.0;
    for (var token = tokens.x; token < tokens.y; token++) {
        sum += x[token * params.cols + i % params.cols];
    }
    y[i] = sum / f32(tokens.y - tokens.x);
}

@compute @workgroup_size(LANES)
fn backward(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i >= params.samples * params.cols {
        return;
    }
    let sample = i / params.cols;
    let tokens = counted(sample);
    let gradient = dy[i] / f32(tokens.y - tokens.x);
    for (var token = segments[sample]; token < segments[sample + 1u]; token++) {
        let counts = token >= tokens.x && token < tokens.y;
        dx[token * params.cols + i % params.cols] = select(0.0, gradient, counts);
    }
}
