// Weights in Q4_K: blocks of 256 with w = d s q - dmin m, s and m for 32. A chunk is 32 weights: 16
// bytes of `w_quants`; of a block, `w_scales` has a word with d and dmin in f16, and four with s
// and m of each chunk in bytes.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, scale: vec2<f32> }

struct PackedChunk { quants: vec4<u32>, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 5u * (index >> 3u);
    let scale = two_bytes(block + 1u, index);
    return PackedChunk(w_quants[index], w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let scale = vec2<f32>(f32(packed.scale & 255u), -f32((packed.scale >> 8u) & 255u));
    return Chunk(packed.quants >> vec4<u32>(first), unpack2x16float(packed.d) * scale);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale.x * vec4<f32>(nibbles4(chunk.quants, i)) + chunk.scale.y;
}
