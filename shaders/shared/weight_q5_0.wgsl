// Weights in Q5_0: blocks of 32 with w = d (q - 16). Of two blocks, `w_quants` has 16 bytes of four
// lower bits each, and `w_scales` a word with both d in f16, and a word of fifth bits each.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, high: u32, scale: f32 }

struct PackedChunk { quants: vec4<u32>, high: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let pair = 3u * (index >> 1u);
    let second = index & 1u;
    return PackedChunk(w_quants[index], w_scales[pair + 1u + second], w_scales[pair] >> (16u * second));
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(packed.quants >> vec4<u32>(first), packed.high >> (4u * first), unpack2x16float(packed.scale).x);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = nibbles4(chunk.quants, i) | (bits4(chunk.high, i) << vec4<u32>(4u));
    return chunk.scale * (vec4<f32>(q) - 16.0);
}
