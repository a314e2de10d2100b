// A workgroup of 256 that makes 16 × 16 results: 16 cells of 4 × 4, each summed by 16 lanes, a
// slice of the sum each. For results with one short side, where whole tiles would leave most of a
// card idle.
const SLICES: u32 = 16u;
const SIDE: u32 = 16u;

// [row][column / 4][slice]; slots are mixed so that neighbouring lanes use different banks.
var<workgroup> partial: array<vec4<f32>, 1024>;

// Sum over the slices, in order, of row `lane / 4` and columns `4 (lane % 4) ..`, for lanes below
// 64.
fn sum_slices(lane: u32, slice: u32, row: u32, column4: u32, sums: mat4x4<f32>) -> vec4<f32> {
    for (var i = 0u; i < 4u; i++) {
        let cell = (row + i) * 4u + column4;
        partial[cell * SLICES + (slice ^ (cell % SLICES))] = sums[i];
    }
    workgroupBarrier();
    var total = vec4<f32>(0.0);
    if lane < 64u {
        for (var s = 0u; s < SLICES; s++) {
            total += partial[lane * SLICES + (s ^ (lane % SLICES))];
        }
    }
    return total;
}
