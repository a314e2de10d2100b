// Weights in Q4_0: blocks of 32 with w = d (q - 8). A chunk is a block: 16 bytes of `w_quants`, byte j with weight j in its
// low nibble and weight j + 16 in its high one, and half a word of `w_scales` with d in f16.
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 32u;

struct Chunk { quants: vec4<u32>, scale: f32 }

fn load_chunk(index: u32) -> Chunk {
    return Chunk(w_quants[index], unpack2x16float(w_scales[index >> 1u] >> (16u * (index & 1u))).x);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let nibbles = (vec4<u32>(chunk.quants[i & 3u]) >> (vec4<u32>(0u, 8u, 16u, 24u) + (i & 4u))) & vec4<u32>(15u);
    return chunk.scale * (vec4<f32>(nibbles) - 8.0);
}
