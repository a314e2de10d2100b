// linear_tn for real cards: a workgroup makes 16 × 16 results, its lanes share out the tokens. One
// side is LoRA's rank, so that whole tiles would be few; here a 16 × 576 gradient has 36 workgroups
// of 256.
//!include shared/slices.wgsl
//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.rows, params.cols);
}

// Tokens of a slice that are loaded at once.
const AHEAD: u32 = 4u;

@compute @workgroup_size(256)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Cells side by side: sixteen lanes fetch the neighbours of one token.
    let slice = lane / 16u;
    let row = lane / 4u % 4u * 4u;
    let column4 = lane % 4u;
    let rows4 = params.rows / 4u;
    let cols4 = params.cols / 4u;
    let a0 = min(group.y * 4u + row / 4u, rows4 - 1u);
    let b0 = min(group.x * 4u + column4, cols4 - 1u);
    var sums: mat4x4<f32>;
    for (var t = slice; t < params.tokens; t += SLICES * AHEAD) {
        var left: array<vec4<f32>, AHEAD>;
        var right: array<vec4<f32>, AHEAD>;
        for (var u = 0u; u < AHEAD; u++) {
            // Beyond the last token, the last one is loaded and counts nothing.
            let at = min(t + SLICES * u, params.tokens - 1u);
            left[u] = a[at * rows4 + a0];
            right[u] = b[at * cols4 + b0];
        }
        for (var u = 0u; u < AHEAD; u++) {
            let l = select(vec4<f32>(0.0), left[u], t + SLICES * u < params.tokens);
            sums += mat4x4<f32>(l.x * right[u], l.y * right[u], l.z * right[u], l.w * right[u]);
        }
    }
    let total = sum_slices(lane, slice, row, column4, sums);
    if lane < 64u {
        store(group.y * SIDE + lane / 4u, 4u * (group.x * 4u + lane % 4u), total);
    }
}
