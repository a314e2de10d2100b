// Weights in IQ4_XS: blocks of 256 with w = d s v, s for 32, v one of IQ4_NL's values. Of a block,
// `w_scales` has d in f16 and two words of signed bytes with s of each chunk.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
const TABLE: vec4<u32> = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

//!include shared/table4.wgsl

struct Chunk { quants: vec4<u32>, scale: f32 }

struct PackedChunk { quants: vec4<u32>, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 3u * (index >> 3u);
    let scale = w_scales[block + 1u + ((index >> 2u) & 1u)] >> (8u * (index & 3u));
    return PackedChunk(w_quants[index], w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let scale = unpack2x16float(packed.d).x * signed_byte(packed.scale, 0u);
    return Chunk(packed.quants >> vec4<u32>(first), scale);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    return chunk.scale * table4(nibbles4(chunk.quants, i));
}
