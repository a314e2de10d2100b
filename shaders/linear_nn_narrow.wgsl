// linear_nn for few inputs on real cards, as LoRA's dy B: a workgroup makes 16 tokens × 16 inputs,
// its lanes share out the rows of W.
//!include shared/slices.wgsl
//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.cols);
}

@compute @workgroup_size(256)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Slices side by side: sixteen lanes fetch neighbours of one row of dy.
    let slice = lane % SLICES;
    let row = lane / 64u * 4u;
    let column4 = lane / 16u % 4u;
    let row4 = params.rows / 4u;
    let row_chunks = params.cols / CHUNK;
    let token = group.x * SIDE;
    let input4 = group.y * 4u;
    let last = params.tokens - 1u;
    let y0 = min(token + row, last) * row4;
    let y1 = min(token + row + 1u, last) * row4;
    let y2 = min(token + row + 2u, last) * row4;
    let y3 = min(token + row + 3u, last) * row4;
    let column = min(input4 + column4, params.cols / 4u - 1u) * 4u;
    let i = column % CHUNK / 4u;
    var sums: mat4x4<f32>;
    for (var n4 = slice; n4 < row4; n4 += SLICES) {
        let at = 4u * n4 * row_chunks + column / CHUNK;
        let w = mat4x4<f32>(
            weight4(load_chunk(at), i),
            weight4(load_chunk(at + row_chunks), i),
            weight4(load_chunk(at + 2u * row_chunks), i),
            weight4(load_chunk(at + 3u * row_chunks), i),
        );
        sums += w * mat4x4<f32>(dy[y0 + n4], dy[y1 + n4], dy[y2 + n4], dy[y3 + n4]);
    }
    let total = sum_slices(lane, slice, row, column4, sums);
    if lane < 64u {
        store(token + lane / 4u, 4u * (input4 + lane % 4u), total);
    }
}
