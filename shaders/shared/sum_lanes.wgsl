// Sums of two numbers over a workgroup of LANES invocations, in lane order: the same order on every
// run.
var<workgroup> partial: array<vec2<f32>, LANES>;

fn sum_lanes(lane: u32, value: vec2<f32>) -> vec2<f32> {
    partial[lane] = value;
    workgroupBarrier();
    var total = vec2<f32>(0.0);
    for (var i = 0u; i < LANES; i++) {
        total += partial[i];
    }
    return total;
}
