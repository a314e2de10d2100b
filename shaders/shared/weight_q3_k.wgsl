// Weights in Q3_K: blocks of 256 with w = d s (q - 4), s for 16. A chunk is 32 weights: 8 bytes of
// two lower bits in `w_quants`; of a block, `w_scales` has d in f16, s in four words of signed
// bytes, and a word of third bits of each chunk.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec2<u32>>;

struct Chunk { quants: vec2<u32>, high: u32, scale: vec2<f32> }

struct PackedChunk { quants: vec2<u32>, high: u32, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 13u * (index >> 3u);
    let scale = two_bytes(block + 1u, index);
    return PackedChunk(w_quants[index], w_scales[block + 5u + (index & 7u)], w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let scale = unpack2x16float(packed.d).x * vec2<f32>(signed_byte(packed.scale, 0u), signed_byte(packed.scale, 1u));
    return Chunk(pairs_from(packed.quants, first), packed.high >> (4u * first), halves_from(scale, first));
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = pairs4(chunk.quants, i) | (bits4(chunk.high, i) << vec4<u32>(2u));
    return select(chunk.scale.x, chunk.scale.y, i > 3u) * (vec4<f32>(q) - 4.0);
}
