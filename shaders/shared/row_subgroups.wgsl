// The sum over eight neighbouring lanes, which lie in one subgroup, in three steps.
fn sum_row(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let pairs = value + subgroupShuffleXor(value, 1u);
    let fours = pairs + subgroupShuffleXor(pairs, 2u);
    return fours + subgroupShuffleXor(fours, 4u);
}
