// linear_nt for few tokens, as in generation: what counts is reading the weight once, in order.
// Eight lanes share four rows of W, so that they fetch neighbouring chunks; each loaded input
// serves four outputs.

//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
//!include shared/weight_{WEIGHT}.wgsl
@group(0) @binding(4) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.tokens, params.rows);
}

const LANES: u32 = 64u;
const LANES_PER_ROW: u32 = 8u;

//!include shared/row_{SUM}.wgsl

@compute @workgroup_size(LANES)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let output4 = group.x * (LANES / LANES_PER_ROW) + lane / LANES_PER_ROW;
    let token = group.y;
    let last4 = params.rows / 4u - 1u;
    let row_chunks = params.cols / CHUNK;
    let first = 4u * min(output4, last4) * row_chunks;
    let inputs = token * (params.cols / 4u);
    var acc: vec4<f32>;
    for (var c = lane % LANES_PER_ROW; c < row_chunks; c += LANES_PER_ROW) {
        let row0 = load_chunk(first + c);
        let row1 = load_chunk(first + row_chunks + c);
        let row2 = load_chunk(first + 2u * row_chunks + c);
        let row3 = load_chunk(first + 3u * row_chunks + c);
        for (var i = 0u; i < CHUNK / 4u; i++) {
            let w = mat4x4<f32>(weight4(row0, i), weight4(row1, i), weight4(row2, i), weight4(row3, i));
            acc += x[inputs + c * (CHUNK / 4u) + i] * w;
        }
    }
    let total = sum_row(lane, acc);
    if lane % LANES_PER_ROW == 0u {
        store(token, 4u * output4, total);
    }
}
