// Layer normalisation of the sum of two tensors and a row, row by row.
//!include shared/grid.wgsl
//!include shared/norm.wgsl
//!include shared/sum_lanes.wgsl

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
}

@group(0) @binding(2) var<storage, read> r: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;

// For a second sum and further ones: every lane has read the last.
fn sum_again(lane: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    return sum_lanes(lane, value);
}

fn summed(base: u32, i: u32) -> f32 {
    return x[base + i] + r[base + i] + shift[i];
}

// Mean and 1 / standard deviation of a row.
fn moments(base: u32, lane: u32) -> vec2<f32> {
    var sum = 0.0;
    for (var i = lane; i < params.dim; i += LANES) {
        sum += summed(base, i);
    }
    let mean = sum_lanes(lane, vec2<f32>(sum, 0.0)).x / f32(params.dim);
    var squares = 0.0;
    for (var i = lane; i < params.dim; i += LANES) {
        let centred = summed(base, i) - mean;
        squares += centred * centred;
    }
    let variance = sum_again(lane, vec2<f32>(squares, 0.0)).x / f32(params.dim);
    return vec2<f32>(mean, inverseSqrt(variance + params.eps));
}

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    let base = min(row, params.rows - 1u) * params.dim;
    let of_row = moments(base, lane);
    if row >= params.rows {
        return;
    }
    for (var i = lane; i < params.dim; i += LANES) {
        y[base + i] = (summed(base, i) - of_row.x) * of_row.y * weight[i] + bias[i];
    }
}

@compute @workgroup_size(LANES)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    let base = min(row, params.rows - 1u) * params.dim;
    let of_row = moments(base, lane);
    var sums = vec2<f32>(0.0);
    for (var i = lane; i < params.dim; i += LANES) {
        let normed = (summed(base, i) - of_row.x) * of_row.y;
        let g = weight[i] * dy[base + i];
        sums += vec2<f32>(g, g * normed);
    }
    let means = sum_again(lane, sums) / f32(params.dim);
    if row >= params.rows {
        return;
    }
    for (var i = lane; i < params.dim; i += LANES) {
        let normed = (summed(base, i) - of_row.x) * of_row.y;
        dx[base + i] = of_row.y * (weight[i] * dy[base + i] - means.x - normed * means.y);
    }
}
