// How far a tuned model's next tokens are from its base's, and what pulls them back.
//!include shared/grid.wgsl
//!include shared/reduce.wgsl
//!include shared/precise.wgsl

struct Params {
    rows: u32,
    hidden: u32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

// (m, s, l_y, rescale) of each row, as the head's sweep leaves it.
@group(0) @binding(1) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> acc: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<f32>;
@group(0) @binding(4) var<storage, read> hidden: array<f32>;
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> entropy: array<f32>;

@group(0) @binding(2) var<storage, read> mean_read: array<f32>;
@group(0) @binding(3) var<storage, read> hidden_tuned: array<f32>;
@group(0) @binding(4) var<storage, read> entropy_read: array<f32>;
@group(0) @binding(5) var<storage, read_write> divergence: array<f32>;

@group(0) @binding(1) var<storage, read> divergence_read: array<f32>;
@group(0) @binding(2) var<storage, read_write> totals: array<f32>;

@group(0) @binding(4) var<storage, read> mean_base: array<f32>;
@group(0) @binding(5) var<storage, read_write> dh: array<f32>;

// Of the softmax of row r: its weighted mean of the rows of W, at element i of [R, H].
fn expected(r: u32, i: u32) -> f32 {
    let e_y = exp(state[r].z - state[r].x);
    return (acc[i] + e_y * targets[i]) / (state[r].y + e_y);
}

fn ln_sum(r: u32) -> f32 {
    return state[r].x + precise_ln(state[r].y + exp(state[r].z - state[r].x));
}

// One workgroup a row.
@compute @workgroup_size(LANES)
fn remember(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row >= params.rows {
        return;
    }
    var sum = 0.0;
    for (var i = row * params.hidden + lane; i < (row + 1u) * params.hidden; i += LANES) {
        let value = expected(row, i);
        mean[i] = value;
        sum += value * hidden[i];
    }
    let logit = sum_lanes(lane, sum);
    if lane == 0u {
        entropy[row] = logit - ln_sum(row);
    }
}

// One workgroup a row.
@compute @workgroup_size(LANES)
fn diverge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row >= params.rows {
        return;
    }
    var sum = 0.0;
    for (var i = row * params.hidden + lane; i < (row + 1u) * params.hidden; i += LANES) {
        sum += mean_read[i] * hidden_tuned[i];
    }
    let logit = sum_lanes(lane, sum);
    if lane == 0u {
        divergence[row] = entropy_read[row] - (logit - ln_sum(row));
    }
}

// One invocation, so that rows are added in order.
@compute @workgroup_size(1)
fn add_up() {
    var sum = 0.0;
    for (var i = 0u; i < params.rows; i++) {
        sum += divergence_read[i];
    }
    totals[0] += params.weight * sum;
}

@compute @workgroup_size(LANES)
fn pull(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * LANES + lane;
    if i < params.rows * params.hidden {
        dh[i] += params.weight * (expected(i / params.hidden, i) - mean_base[i]);
    }
}
