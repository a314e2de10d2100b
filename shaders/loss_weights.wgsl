// From the log-probabilities of each sample's trained tokens to what each token's gradient is
// multiplied by.
//!include shared/grid.wgsl
//!include shared/reduce.wgsl
//!include shared/precise.wgsl

struct Params {
    kind: u32, // 0 sft, 1 dft, 2 bft, 3 bft-v3, 4 gce
    group_size: u32,
    parts: u32, // not 0: a window is this part of a sample, and group_size does not count
    gamma: f32,
    weight_floor: f32,
    q: f32, // of gce
    step_samples: f32, // B
    step_tokens: f32,  // N
    samples: u32,      // S of this micro-batch
    rows: u32,         // R of this micro-batch
}

const SFT = 0u;
const BFT = 2u;
const BFT_V3 = 3u;
const GCE = 4u;
const EPSILON = 1e-8;

@group(0) @binding(0) var<uniform> params: Params;

@group(0) @binding(1) var<storage, read> log_p: array<f32>;
@group(0) @binding(2) var<storage, read> bounds: array<u32>;
@group(0) @binding(3) var<storage, read_write> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read_write> sample_terms: array<vec2<f32>>;

@group(0) @binding(1) var<storage, read> sample_terms_read: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> totals: array<f32>;

// Tokens of a window in a sample of n.
fn window(n: u32) -> u32 {
    if params.parts > 0u {
        return (n + params.parts - 1u) / params.parts;
    }
    return params.group_size;
}

// bft: ln of the confidence before the exponent, the least mean of log p over g consecutive tokens.
// A lane takes windows next to each other, each of which is the one before but for two tokens. What
// rounding that leaves is that of the largest sum, which alone is wanted.
fn least_window(lane: u32, first: u32, n: u32) -> f32 {
    let g = min(window(n), n);
    let each = (n - g) / LANES + 1u;
    let start = first + lane * each;
    let end = min(start + each, first + n - g + 1u);
    var most = 0.0;
    if start < end {
        var sum = 0.0;
        for (var part = start; part < start + g; part += LANES) {
            // Sums of parts lose fewer digits than one long sum.
            var part_sum = 0.0;
            for (var j = part; j < min(part + LANES, start + g); j++) {
                part_sum -= log_p[j];
            }
            sum += part_sum;
        }
        most = max(most, sum);
        for (var t = start; t + 1u < end; t++) {
            sum += log_p[t] - log_p[t + g];
            most = max(most, sum);
        }
    }
    return -max_lanes(lane, most) / f32(g);
}

// bft-v3: mean of p and of 1 - p around a token. Each is small without the other's rounding error.
fn around(t: u32, first: u32, n: u32) -> vec2<f32> {
    let g = window(n);
    let before = g / 2u;
    let start = max(t, first + before) - before;
    let end = min(t + g - before, first + n);
    var sums = vec2<f32>(0.0);
    for (var j = start; j < end; j++) {
        sums += vec2<f32>(exp(log_p[j]), one_minus_exp(min(log_p[j], 0.0)));
    }
    return sums / f32(end - start);
}

// gce: (1 - p^q) / q.
fn generalised(log_p: f32) -> f32 {
    let x = params.q * min(log_p, 0.0);
    // So near to 0, where q may have been flushed to 0 too, it is -x / q.
    if x > -1e-8 {
        return -log_p;
    }
    return one_minus_exp(x) / params.q;
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
        if params.kind == GCE {
            weight = exp(params.q * log_p[t]);
        } else if params.kind != SFT {
            weight = exp(log_p[t]);
            if params.kind == BFT_V3 {
                let means = around(t, first, n);
                weight = clamp(weight / (means.x + EPSILON), 0.0, 1.0);
                least_sure = max(least_sure, means.y);
            }
            weight = max(weight, params.weight_floor);
        }
        coefficients[t] = weight;
    }
    if params.kind == BFT_V3 {
        s = max_lanes(lane, least_sure);
        divisor = params.step_samples * (f32(n) + EPSILON);
    }

    let factor = s / divisor;
    var loss = 0.0;
    var nll = 0.0;
    for (var t = first + lane; t < first + n; t += LANES) {
        let c = coefficients[t] * factor;
        coefficients[t] = c;
        if params.kind == GCE {
            loss += factor * generalised(log_p[t]);
        } else {
            loss -= c * log_p[t];
        }
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
