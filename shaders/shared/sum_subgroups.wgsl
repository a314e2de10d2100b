// Sums of two numbers over a workgroup of LANES invocations: first over subgroups, which are
// neighbouring lanes.
var<workgroup> partial: array<vec2<f32>, LANES>;

fn sum_lanes(lane: u32, value: vec2<f32>) -> vec2<f32> {
    partial[lane] = subgroupAdd(value);
    let size = subgroupAdd(1u);
    workgroupBarrier();
    var total = vec2<f32>(0.0);
    for (var i = 0u; i < LANES; i += size) {
        total += partial[i];
    }
    return total;
}
