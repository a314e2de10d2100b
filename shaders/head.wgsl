// Softmax over a vocabulary that is visited in chunks of columns, and the gradient of the hidden
// state.
//!include shared/grid.wgsl
//!include shared/reduce.wgsl
//!include shared/precise.wgsl

struct Params {
    rows: u32,
    cols: u32,  // online_softmax: columns of the chunk; rescale and gradient: hidden size
    first: u32, // online_softmax: vocabulary id of column 0
    vocab: u32, // online_softmax: columns from this id on only pad the chunk
}

// Stands for no logit seen so far: exp of any distance to it is 0, and no distance to it is
// infinite.
const NONE = -1e30;

@group(0) @binding(0) var<uniform> params: Params;

// (m, s, l_y, rescale) of each row.
@group(0) @binding(1) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;

@group(0) @binding(1) var<storage, read> state_read: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> acc: array<f32>;

@group(0) @binding(2) var<storage, read_write> log_p: array<f32>;

@group(0) @binding(2) var<storage, read> acc_read: array<f32>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read> targets: array<f32>;
@group(0) @binding(5) var<storage, read_write> dh: array<f32>;

@compute @workgroup_size(LANES)
fn begin(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups) * LANES + lane;
    if row < params.rows {
        state[row] = vec4<f32>(NONE, 0.0, NONE, 0.0);
    }
}

// One workgroup a row.
@compute @workgroup_size(LANES)
fn online_softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row >= params.rows {
        return;
    }
    let base = row * params.cols;
    // Wraps to a large number where the label lies before the chunk.
    let label = labels[row] - params.first;
    let old = state[row];
    let columns = min(params.cols, params.vocab - params.first);

    var largest = old.x;
    for (var i = lane; i < columns; i += LANES) {
        largest = max(largest, logits[base + i]);
    }
    let m = max_lanes(lane, largest);

    var l_y = NONE;
    var sum = 0.0;
    for (var i = lane; i < params.cols; i += LANES) {
        let logit = logits[base + i];
        var e = exp(logit - m);
        if i >= columns {
            e = 0.0;
        } else if i == label {
            l_y = logit;
            e = 0.0;
        }
        logits[base + i] = e;
        sum += e;
    }
    let chunk_sum = sum_lanes(lane, sum);
    // Only one lane saw the label.
    let chunk_label = max_lanes(lane, l_y);
    if lane == 0u {
        let rescale = exp(old.x - m);
        state[row] = vec4<f32>(m, old.y * rescale + chunk_sum, max(old.z, chunk_label), rescale);
    }
}

@compute @workgroup_size(LANES)
fn rescale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * LANES + lane;
    if i < params.rows * params.cols {
        acc[i] *= state_read[i / params.cols].w;
    }
}

@compute @workgroup_size(LANES)
fn log_prob(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups) * LANES + lane;
    if row >= params.rows {
        return;
    }
    let s = state_read[row].y;
    let margin = state_read[row].z - state_read[row].x;
    let e_y = exp(margin);
    if s < e_y {
        log_p[row] = -ln_1p(s / e_y);
    } else {
        log_p[row] = margin - precise_ln(s + e_y);
    }
}

@compute @workgroup_size(LANES)
fn gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * LANES + lane;
    if i >= params.rows * params.cols {
        return;
    }
    let row = i / params.cols;
    let s = state_read[row].y;
    let z = s + exp(state_read[row].z - state_read[row].x);
    dh[i] = coefficients[row] * (acc_read[i] / z - s / z * targets[i]);
}
