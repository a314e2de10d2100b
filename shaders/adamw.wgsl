// Gradient norm, clipping and AdamW (arXiv 1711.05101) over all trained parameters as one flat
// array.
//!include shared/grid.wgsl

struct Params {
    len: u32,
    blocks: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    max_norm: f32, // 0: no clipping
}

const BLOCK = 4096u;
const LANES = 64u;

@group(0) @binding(0) var<uniform> params: Params;

// norm
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [blocks, 2]: sum of squares, first element that is not finite

// control
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> totals: array<f32>; // [4] loss, summed NLL, tokens, unused
@group(0) @binding(3) var<storage, read_write> state: array<f32>; // [8], see adamw.rs
@group(0) @binding(4) var<storage, read_write> metrics: array<f32>; // [8], see adamw.rs

// update
@group(0) @binding(1) var<storage, read> control_state: array<f32>;
@group(0) @binding(2) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradients: array<f32>;
@group(0) @binding(4) var<storage, read_write> first_moment: array<f32>;
@group(0) @binding(5) var<storage, read_write> second_moment: array<f32>;

var<workgroup> sums: array<vec2<f32>, LANES>;

// By its bits: a compiler that assumes finite numbers may drop a comparison with itself.
fn not_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(LANES)
fn norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = flat_group(group, groups);
    let first = block * BLOCK;
    let last = min(first + BLOCK, params.len);
    var sum = vec2<f32>(0.0, f32(BLOCK));
    for (var i = first + lane; i < last; i += LANES) {
        let g = gradient[i];
        if not_finite(g) {
            sum.y = min(sum.y, f32(i - first));
        } else {
            sum.x += g * g;
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u && block < params.blocks {
        var total = vec2<f32>(0.0, f32(BLOCK));
        for (var i = 0u; i < LANES; i++) {
            total = vec2<f32>(total.x + sums[i].x, min(total.y, sums[i].y));
        }
        partial[2u * block] = total.x;
        partial[2u * block + 1u] = total.y;
    }
}

@compute @workgroup_size(1)
fn control() {
    var squares = 0.0;
    var bad = vec2<f32>(-1.0, 0.0); // block, element in it
    for (var i = 0u; i < params.blocks; i++) {
        squares += partials[2u * i];
        if bad.x < 0.0 && partials[2u * i + 1u] < f32(BLOCK) {
            bad = vec2<f32>(f32(i), partials[2u * i + 1u]);
        }
    }
    let norm = sqrt(squares);
    let skip = bad.x >= 0.0 || not_finite(norm) || not_finite(totals[0]);
    if !skip {
        state[0] = state[0] * params.beta1 + params.one_minus_beta1;
        state[1] = state[1] * params.beta2 + params.one_minus_beta2;
        state[2] += 1.0;
    }
    var clip = 1.0;
    if params.max_norm > 0.0 {
        clip = min(1.0, params.max_norm / (norm + 1e-6));
    }
    state[3] = clip;
    state[4] = select(1.0, 0.0, skip);
    for (var i = 0u; i < 4u; i++) {
        metrics[i] = totals[i];
        totals[i] = 0.0;
    }
    metrics[4] = norm;
    metrics[5] = select(0.0, 1.0, skip);
    metrics[6] = bad.x;
    metrics[7] = bad.y;
}

@compute @workgroup_size(LANES)
fn update(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * LANES + lane;
    if i >= params.len {
        return;
    }
    if control_state[4] == 1.0 {
        let g = gradients[i] * control_state[3];
        let m = params.beta1 * first_moment[i] + params.one_minus_beta1 * g;
        let v = params.beta2 * second_moment[i] + params.one_minus_beta2 * g * g;
        first_moment[i] = m;
        second_moment[i] = v;
        let step = (m / control_state[0]) / (sqrt(v / control_state[1]) + params.eps);
        parameters[i] = parameters[i] - params.lr * (params.weight_decay * parameters[i] + step);
    }
    gradients[i] = 0.0;
}
