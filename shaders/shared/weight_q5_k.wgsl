// Weights in Q5_K: as Q4_K, and `w_scales` has a word of fifth bits of each chunk behind the scales
// of a block.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, high: u32, scale: vec2<f32> }

struct PackedChunk { quants: vec4<u32>, high: u32, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 13u * (index >> 3u);
    let scale = two_bytes(block + 1u, index);
    return PackedChunk(w_quants[index], w_scales[block + 5u + (index & 7u)], w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let scale = vec2<f32>(f32(packed.scale & 255u), -f32((packed.scale >> 8u) & 255u));
    let high = packed.high >> (4u * first);
    return Chunk(packed.quants >> vec4<u32>(first), high, unpack2x16float(packed.d) * scale);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = nibbles4(chunk.quants, i) | (bits4(chunk.high, i) << vec4<u32>(4u));
    return chunk.scale.x * vec4<f32>(q) + chunk.scale.y;
}
