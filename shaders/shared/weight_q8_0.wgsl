// Weights in Q8_0: blocks of 32 with w = d q, q a signed byte. A chunk is half a block: 16 bytes of `w_quants` in order,
// and half a word of `w_scales` with the block's d in f16.
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 16u;

struct Chunk { quants: vec4<u32>, scale: f32 }

fn load_chunk(index: u32) -> Chunk {
    return Chunk(w_quants[index], unpack2x16float(w_scales[index >> 2u] >> (8u * (index & 2u))).x);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    // Each byte is moved to the top of its word, so that the shift back extends its sign.
    let bytes = bitcast<vec4<i32>>(vec4<u32>(chunk.quants[i]) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return chunk.scale * vec4<f32>(bytes);
}
