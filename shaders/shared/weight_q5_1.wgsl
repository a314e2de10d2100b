// Weights in Q5_1: blocks of 32 with w = d q + m. A chunk is a block: 16 bytes of four lower bits
// in `w_quants`, and in `w_scales` a word with d and m in f16 and a word of fifth bits.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, high: u32, scale: vec2<f32> }

struct PackedChunk { quants: vec4<u32>, high: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[2u * index + 1u], w_scales[2u * index]);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(packed.quants >> vec4<u32>(first), packed.high >> (4u * first), unpack2x16float(packed.scale));
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = nibbles4(chunk.quants, i) | (bits4(chunk.high, i) << vec4<u32>(4u));
    return chunk.scale.x * vec4<f32>(q) + chunk.scale.y;
}
