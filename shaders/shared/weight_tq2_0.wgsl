// Ternary weights: blocks of 256 with w = d (q - 1). A chunk is 32 weights: 8 bytes of `w_quants`;
// `w_scales` has a word with d in f16 for a block.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec2<u32>>;

struct Chunk { quants: vec2<u32>, scale: f32 }

struct PackedChunk { quants: vec2<u32>, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[index >> 3u]);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(pairs_from(packed.quants, first), unpack2x16float(packed.scale).x);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale * (vec4<f32>(pairs4(chunk.quants, i)) - 1.0);
}
