// linear_nn where subgroups multiply matrices: W is decoded into workgroup memory once for TILE
// tokens.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.cols);
}

//!include shared/matrices.wgsl

const RIGHT_PITCH: u32 = TILE + 8u;
var<workgroup> right: array<Real, DEPTH * RIGHT_PITCH>; // [term][input]

fn left4(at: u32) -> vec4<f32> {
    return dy[at];
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * TILE;
    let input = group.y * TILE;
    let block = block(lane);
    var sum00 = Sum();
    var sum01 = Sum();
    var sum10 = Sum();
    var sum11 = Sum();
    for (var term = 0u; term < params.rows; term += DEPTH) {
        put_left(token, term, params.rows, lane);
        for (var i = lane; i < DEPTH * (TILE / 16u); i += LANES) {
            // Rows beyond the last meet zeros of dy.
            let row = i / (TILE / 16u);
            let first = i % (TILE / 16u) * 16u;
            put_right(min(term + row, params.rows - 1u), input + first, row * RIGHT_PITCH + first);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIDE) {
            let left0 = coopLoadT<Left>(&left[block.row * PITCH + k], PITCH);
            let left1 = coopLoadT<Left>(&left[(block.row + SIDE) * PITCH + k], PITCH);
            let right0 = coopLoadT<Right>(&right[k * RIGHT_PITCH + block.column], RIGHT_PITCH);
            let right1 = coopLoadT<Right>(&right[k * RIGHT_PITCH + block.column + SIDE], RIGHT_PITCH);
            sum00 = coopMultiplyAdd(left0, right0, sum00);
            sum01 = coopMultiplyAdd(left0, right1, sum01);
            sum10 = coopMultiplyAdd(left1, right0, sum10);
            sum11 = coopMultiplyAdd(left1, right1, sum11);
        }
        workgroupBarrier();
    }
    coopStoreT(sum00, &sums[block.own], SIDE);
    store_matrices(token, input, 0u, 0u, lane);
    coopStoreT(sum01, &sums[block.own], SIDE);
    store_matrices(token, input, 0u, 1u, lane);
    coopStoreT(sum10, &sums[block.own], SIDE);
    store_matrices(token, input, 1u, 0u, lane);
    coopStoreT(sum11, &sums[block.own], SIDE);
    store_matrices(token, input, 1u, 1u, lane);
}
