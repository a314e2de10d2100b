// The sum over eight neighbouring lanes, for the first of them, in lane order.
var<workgroup> partial: array<vec4<f32>, LANES>;

fn sum_row(lane: u32, value: vec4<f32>) -> vec4<f32> {
    partial[lane] = value;
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    for (var l = 0u; l < LANES_PER_ROW; l++) {
        total += partial[min(lane + l, LANES - 1u)];
    }
    return total;
}
