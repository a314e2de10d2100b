// Weights in MXFP4: blocks of 32 with w = 2^(e - 127) v, v a four-bit float. `w_scales` has e of
// four blocks in a word.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

// Twice 0, 0.5, 1, 1.5, 2, 3, 4, 6, and the same negative.
const TABLE: vec4<u32> = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

//!include shared/table4.wgsl

struct Chunk { quants: vec4<u32>, scale: f32 }

struct PackedChunk { quants: vec4<u32>, e: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], (w_scales[index >> 2u] >> (8u * (index & 3u))) & 255u);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    // 2^(e - 128): a driver may take it for 0 where it is subnormal.
    let scale = select(packed.e - 1u, 0u, packed.e == 0u) << 23u;
    return Chunk(packed.quants >> vec4<u32>(first), bitcast<f32>(scale));
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale * table4(nibbles4(chunk.quants, i));
}
