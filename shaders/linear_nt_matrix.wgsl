// linear_nt where subgroups multiply matrices: W is decoded into workgroup memory once for TILE
// tokens, in f32 or f16.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.rows);
}

//!include shared/matrices.wgsl

var<workgroup> right: array<Real, TILE * PITCH>; // [output][term]

fn left4(at: u32) -> vec4<f32> {
    return x[at];
}

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * TILE;
    let output = group.y * TILE;
    let block = block(lane);
    var sum00 = Sum();
    var sum01 = Sum();
    var sum10 = Sum();
    var sum11 = Sum();
    for (var term = 0u; term < params.cols; term += DEPTH) {
        put_left(token, term, params.cols, lane);
        for (var i = lane; i < TILE * 2u; i += LANES) {
            // Outputs beyond the last are the last again and not stored.
            let row = min(output + i / 2u, params.rows - 1u);
            put_right(row, term + i % 2u * 16u, i / 2u * PITCH + i % 2u * 16u);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIDE) {
            let left0 = coopLoadT<Left>(&left[block.row * PITCH + k], PITCH);
            let left1 = coopLoadT<Left>(&left[(block.row + SIDE) * PITCH + k], PITCH);
            let right0 = coopLoad<Right>(&right[block.column * PITCH + k], PITCH);
            let right1 = coopLoad<Right>(&right[(block.column + SIDE) * PITCH + k], PITCH);
            sum00 = coopMultiplyAdd(left0, right0, sum00);
            sum01 = coopMultiplyAdd(left0, right1, sum01);
            sum10 = coopMultiplyAdd(left1, right0, sum10);
            sum11 = coopMultiplyAdd(left1, right1, sum11);
        }
        workgroupBarrier();
    }
    coopStoreT(sum00, &sums[block.own], SIDE);
    store_matrices(token, output, 0u, 0u, lane);
    coopStoreT(sum01, &sums[block.own], SIDE);
    store_matrices(token, output, 0u, 1u, lane);
    coopStoreT(sum10, &sums[block.own], SIDE);
    store_matrices(token, output, 1u, 0u, lane);
    coopStoreT(sum11, &sums[block.own], SIDE);
    store_matrices(token, output, 1u, 1u, lane);
}
