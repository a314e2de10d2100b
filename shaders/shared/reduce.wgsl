// Sums and maxima over a workgroup of LANES invocations, in lane order: the same order on every
// run. All invocations must call them together.
const LANES = 64u;

var<workgroup> partial: array<f32, LANES>;

fn sum_lanes(lane: u32, value: f32) -> f32 {
    workgroupBarrier(); // Every lane has read the last result.
    partial[lane] = value;
    workgroupBarrier();
    if lane == 0u {
        var total = value;
        for (var i = 1u; i < LANES; i++) {
            total += partial[i];
        }
        partial[0] = total;
    }
    workgroupBarrier();
    return partial[0];
}

fn max_lanes(lane: u32, value: f32) -> f32 {
    workgroupBarrier(); // Every lane has read the last result.
    partial[lane] = value;
    workgroupBarrier();
    if lane == 0u {
        var largest = value;
        for (var i = 1u; i < LANES; i++) {
            largest = max(largest, partial[i]);
        }
        partial[0] = largest;
    }
    workgroupBarrier();
    return partial[0];
}
