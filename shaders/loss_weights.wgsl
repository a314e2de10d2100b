// From the log-probabilities of each sample's trained tokens to what each token's gradient is
// multiplied by.
//!include shared/grid.wgsl
//!include shared/reduce.wgsl
//!include shared/precise.wgsl

struct Params {
    kind: u32, // 0 sft, 1 dft, 2 bft, 3 bft-v3
    group_size: u32,
    gamma: f32,
    step_samples: f32, // B
    step_tokens: f32,  // N
    samples: u32,      // S of this micro-batch
    rows: u32,         // R of this micro-batch
}

const SFT = 0u;
const DFT = 1u;
const BFT = 2u;
const EPSILON = 1e-8;

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> log_p: array<f32>;
@group(0) @binding(2) var<storage, read> bounds: array<u32>;
@group(0) @binding(3) var<storage, read_write> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read_write> sample_terms: array<vec2<f32>>;

@group(0) @binding(1) var<storage, read> sample_terms_read: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> totals: array<f32>;

// bft: ln of the confidence before the exponent, the least mean of log p over g consecutive tokens.
fn least_window(lane: u32, first: u32, n: u32) -> f32 {
    let g = min(params.group_size, n);
    var most = 0.0;
    for (var t = first + lane; t + g <= first + n; t += LANES) {
        var sum = 0.0;
        for (var j = t; j < t + g; j++) {
            sum -= log_p[j];
        }
        most = max(most, sum);
    }
    return -max_lanes(lane, most) / f32(g);
}

// bft-v3: mean of p and of 1 - p around a token. Each is small without the other's rounding error.
fn around(t: u32, first: u32, n: u32) -> vec2<f32> {
    let before = params.group_size / 2u;
    let start = max(t, first + before) - before;
    let end = min(t + params.group_size - before, first + n);
    var sums = vec2<f32>(0.0);
    for (var j = start; j < end; j++) {
        sums += vec2<f32>(exp(log_p[j]), one_minus_exp(min(log_p[j], 0.0)));
    }
    return sums / f32(end - start);
}

// One workgroup a sample.
@compute @workgroup_size(LANES)
fn weigh(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let sample = flat_group(group, groups);
    if sample >= params.samples {
        return;
    }
    let first = bounds[sample];
    let n = bounds[sample + 1u] - first;
    if n == 0u {
        if lane == 0u {
            sample_terms[sample] = vec2<f32>(0.0);
        }
        return;
    }

    // Tokens get their weight w first, in place, and the sample's factor at the end.
    var s = 1.0;
    var divisor = params.step_tokens;
    if params.kind == BFT {
        s = one_minus_exp(params.gamma * least_window(lane, first, n));
        divisor = params.step_samples * f32(n);
    }
    var least_sure = 0.0;
    for (var t = first + lane; t < first + n; t += LANES) {
        var weight = 1.0;
        if params.kind == DFT || params.kind == BFT {
            weight = exp(log_p[t]);
        } else if params.kind != SFT {
            let means = around(t, first, n);
            weight = clamp(exp(log_p[t]) / (means.x + EPSILON), 0.0, 1.0);
            least_sure = max(least_sure, means.y);
        }
        coefficients[t] = weight;
    }
    if params.kind > BFT {
        s = max_lanes(lane, least_sure);
        divisor = params.step_samples * (f32(n) + EPSILON);
    }

    let factor = s / divisor;
    var loss = 0.0;
    var nll = 0.0;
    for (var t = first + lane; t < first + n; t += LANES) {
        let c = coefficients[t] * factor;
        coefficients[t] = c;
        loss -= c * log_p[t];
        nll -= log_p[t];
    }
    let loss_of_sample = sum_lanes(lane, loss);
    let nll_of_sample = sum_lanes(lane, nll);
    if lane == 0u {
        sample_terms[sample] = vec2<f32>(loss_of_sample, nll_of_sample);
    }
}

// One invocation, so that samples are added in order.
@compute @workgroup_size(1)
fn add_up() {
    var loss = 0.0;
    var nll = 0.0;
    for (var i = 0u; i < params.samples; i++) {
        loss += sample_terms_read[i].x;
        nll += sample_terms_read[i].y;
    }
    totals[0] += loss;
    totals[1] += nll;
    totals[2] += f32(params.rows);
}
