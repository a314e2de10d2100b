// Weights in Q6_K: blocks of 256 with w = d s (q - 32), s for 16. A chunk is 32 weights: 16 bytes
// of four lower bits in `w_quants`; of a block, `w_scales` has d in f16, s in four words of signed
// bytes, and two words of upper bits of each chunk.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;

struct Chunk { quants: vec4<u32>, high: vec2<u32>, scale: vec2<f32> }

struct PackedChunk { quants: vec4<u32>, high: vec2<u32>, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 21u * (index >> 3u);
    let scale = two_bytes(block + 1u, index);
    let high = block + 5u + 2u * (index & 7u);
    return PackedChunk(w_quants[index], vec2<u32>(w_scales[high], w_scales[high + 1u]), w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let scale = unpack2x16float(packed.d).x * vec2<f32>(signed_byte(packed.scale, 0u), signed_byte(packed.scale, 1u));
    return Chunk(packed.quants >> vec4<u32>(first), pairs_from(packed.high, first), halves_from(scale, first));
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = nibbles4(chunk.quants, i) | (pairs4(chunk.high, i) << vec4<u32>(4u));
    return select(chunk.scale.x, chunk.scale.y, i > 3u) * (vec4<f32>(q) - 32.0);
}
