// linear_nt for few outputs on real cards, as LoRA's x Aᵀ: a workgroup makes 16 tokens × 16
// outputs, its lanes share out the inputs.
//!include shared/slices.wgsl
//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.rows);
}

@compute @workgroup_size(256)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Slices side by side: sixteen lanes fetch neighbouring chunks of one row.
    let slice = lane % SLICES;
    let row = lane / 64u * 4u;
    let column4 = lane / 16u % 4u;
    let row4 = params.cols / 4u;
    let row_chunks = params.cols / CHUNK;
    let token = group.x * SIDE;
    let output4 = group.y * 4u;
    let last = params.tokens - 1u;
    let x0 = min(token + row, last) * row4;
    let x1 = min(token + row + 1u, last) * row4;
    let x2 = min(token + row + 2u, last) * row4;
    let x3 = min(token + row + 3u, last) * row4;
    let first = 4u * min(output4 + column4, params.rows / 4u - 1u) * row_chunks;
    var sums: mat4x4<f32>;
    for (var c = slice; c < row_chunks; c += SLICES) {
        let row0 = load_chunk(first + c);
        let row1 = load_chunk(first + row_chunks + c);
        let row2 = load_chunk(first + 2u * row_chunks + c);
        let row3 = load_chunk(first + 3u * row_chunks + c);
        for (var i = 0u; i < CHUNK / 4u; i++) {
            let at = c * (CHUNK / 4u) + i;
            let w = mat4x4<f32>(weight4(row0, i), weight4(row1, i), weight4(row2, i), weight4(row3, i));
            sums += mat4x4<f32>(x[x0 + at] * w, x[x1 + at] * w, x[x2 + at] * w, x[x3 + at] * w);
        }
    }
    let total = sum_slices(lane, slice, row, column4, sums);
    if lane < 64u {
        store(token + lane / 4u, 4u * (output4 + lane % 4u), total);
    }
}
