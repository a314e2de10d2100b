// Root-mean-square normalisation of rows.
//!include shared/grid.wgsl
//!include shared/norm.wgsl
//!include shared/sum_{SUM}.wgsl

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    accumulate: u32, // backward: 1 adds to dx, 0 overwrites it
}

@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    let base = row * params.dim;
    var squares = 0.0;
    if row < params.rows {
        for (var i = lane; i < params.dim; i += LANES) {
            squares += x[base + i] * x[base + i];
        }
    }
    let total = sum_lanes(lane, vec2<f32>(squares, 0.0)).x;
    if row >= params.rows {
        return;
    }
    let scale = inverseSqrt(total / f32(params.dim) + params.eps);
    for (var i = lane; i < params.dim; i += LANES) {
        y[base + i] = x[base + i] * scale * weight[i];
    }
}

@compute @workgroup_size(LANES)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    let base = row * params.dim;
    var sums = vec2<f32>(0.0);
    if row < params.rows {
        for (var i = lane; i < params.dim; i += LANES) {
            let value = x[base + i];
            sums += vec2<f32>(value * value, value * weight[i] * dy[base + i]);
        }
    }
    let total = sum_lanes(lane, sums);
    if row >= params.rows {
        return;
    }
    let scale = inverseSqrt(total.x / f32(params.dim) + params.eps);
    let pull = total.y * scale * scale / f32(params.dim);
    for (var i = lane; i < params.dim; i += LANES) {
        let gradient = scale * (weight[i] * dy[base + i] - x[base + i] * pull);
        if params.accumulate == 1u {
            dx[base + i] += gradient;
        } else {
            dx[base + i] = gradient;
        }
    }
}
