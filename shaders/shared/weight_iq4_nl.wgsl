// Weights in IQ4_NL: blocks of 32 with w = d v, v one of sixteen values. As Q4_0 otherwise.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
const TABLE: vec4<u32> = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

//!include shared/table4.wgsl

struct Chunk { quants: vec4<u32>, scale: f32 }

struct PackedChunk { quants: vec4<u32>, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[index >> 1u] >> (16u * (index & 1u)));
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(packed.quants >> vec4<u32>(first), unpack2x16float(packed.scale).x);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale * table4(nibbles4(chunk.quants, i));
}
