// DoRA's lengths of rows. A workgroup a row for the squares, else an invocation an element or a
// column.
//!include shared/elements.wgsl
//!include shared/grid.wgsl
//!include shared/sum_lanes.wgsl

struct Params {
    rows: u32,
    cols: u32,
    rank: u32,
    factor: f32,
    shift: f32,
    accumulate: u32, // 1 adds to the result, 0 overwrites it
}

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> row_squares: array<f32>;

@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> aw: array<f32>;
@group(0) @binding(3) var<storage, read> aa: array<f32>;
@group(0) @binding(4) var<storage, read> weight_squares: array<f32>;
@group(0) @binding(5) var<storage, read_write> norms: array<f32>;

@group(0) @binding(1) var<storage, read> magnitude: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> inverse: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(LANES)
fn squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    var sum = 0.0;
    if row < params.rows {
        for (var i = lane; i < params.cols; i += LANES) {
            let value = x[row * params.cols + i];
            sum += value * value;
        }
    }
    let total = sum_lanes(lane, vec2<f32>(sum, 0.0)).x;
    if lane == 0u && row < params.rows {
        row_squares[row] = total;
    }
}

@compute @workgroup_size(LANES)
fn inverse_norm(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i >= params.rows {
        return;
    }
    let s = params.factor;
    var sum = weight_squares[i];
    for (var k = 0u; k < params.rank; k++) {
        var of_pair = 0.0;
        for (var l = 0u; l < params.rank; l++) {
            of_pair += aa[k * params.rank + l] * b[i * params.rank + l];
        }
        sum += b[i * params.rank + k] * s * (2.0 * aw[k * params.cols + i] + s * of_pair);
    }
    var norm = 0.0;
    if sum > 0.0 {
        norm = inverseSqrt(sum);
    }
    norms[i] = norm;
}

@compute @workgroup_size(LANES)
fn scale_rows(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i >= params.rows * params.cols {
        return;
    }
    let row = i % params.cols;
    let scaled = (params.factor * magnitude[row] * inverse[row] + params.shift) * v[i];
    if params.accumulate == 1u {
        result[i] += scaled;
    } else {
        result[i] = scaled;
    }
}

// Tokens whose products are summed before they join the sum of all: one running sum over a long
// batch loses digits.
const TOKENS = 64u;

@compute @workgroup_size(LANES)
fn magnitude_gradient(at: Place) {
    let i = element(at.group, at.groups, at.lane);
    if i >= params.cols {
        return;
    }
    var sum = 0.0;
    for (var first = 0u; first < params.rows; first += TOKENS) {
        var part = 0.0;
        for (var token = first; token < min(first + TOKENS, params.rows); token++) {
            part += dy[token * params.cols + i] * v[token * params.cols + i];
        }
        sum += part;
    }
    let gradient = sum * inverse[i];
    if params.accumulate == 1u {
        result[i] += gradient;
    } else {
        result[i] = gradient;
    }
}
