// Weights in Q4_1: blocks of 32 with w = d q + m. A chunk is a block: 16 bytes of `w_quants`, byte
// j with weight j in its low nibble and weight j + 16 in its high one, and a word of `w_scales`
// with d and m in f16.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, scale: vec2<f32> }

struct PackedChunk { quants: vec4<u32>, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[index]);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(packed.quants >> vec4<u32>(first), unpack2x16float(packed.scale));
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale.x * vec4<f32>(nibbles4(chunk.quants, i)) + chunk.scale.y;
}
