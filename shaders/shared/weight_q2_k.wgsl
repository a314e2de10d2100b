// Weights in Q2_K: blocks of 256 with w = d s q - dmin m, s and m for 16. A chunk is 32 weights: 8
// bytes of `w_quants`; of a block, `w_scales` has a word with d and dmin in f16, and four words of
// bytes with s low and m high.
//!include shared/codes.wgsl
@group(0) @binding(2) var<storage, read> w_quants: array<vec2<u32>>;

struct Chunk { quants: vec2<u32>, scale: vec2<f32>, low: vec2<f32> }

struct PackedChunk { quants: vec2<u32>, d: u32, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    let block = 5u * (index >> 3u);
    let scale = two_bytes(block + 1u, index);
    return PackedChunk(w_quants[index], w_scales[block], scale);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let d = unpack2x16float(packed.d);
    let scale = vec2<u32>(packed.scale, packed.scale >> 8u) & vec2<u32>(15u);
    let low = vec2<u32>(packed.scale >> 4u, packed.scale >> 12u) & vec2<u32>(15u);
    return Chunk(
        pairs_from(packed.quants, first),
        halves_from(d.x * vec2<f32>(scale), first),
        halves_from(-d.y * vec2<f32>(low), first),
    );
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let second = i > 3u;
    let q = vec4<f32>(pairs4(chunk.quants, i));
    return select(chunk.scale.x, chunk.scale.y, second) * q + select(chunk.low.x, chunk.low.y, second);
}
