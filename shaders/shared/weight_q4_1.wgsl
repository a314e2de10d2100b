// Weights in Q4_1: blocks of 32 with w = d q + m. A chunk is a block: 16 bytes of `w_quants`, byte
// j with weight j in its low nibble and weight j + 16 in its high one, and a word of `w_scales`
// with d and m in f16.
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 32u;

struct Chunk { quants: vec4<u32>, scale: vec2<f32> }

// As loaded: to be opened when it is needed, so that nothing waits for the load before.
struct PackedChunk { quants: vec4<u32>, scale: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[index]);
}

// `weight4` then counts from the four weights number `first`, 0 or 4.
fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return Chunk(packed.quants >> vec4<u32>(first), unpack2x16float(packed.scale));
}

fn load_chunk(index: u32) -> Chunk {
    return open_chunk(fetch_chunk(index), 0u);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    // Four nibbles in four bytes, which cards turn into floats at once.
    let q = (chunk.quants[i & 3u] >> (i & 4u)) & 0x0f0f0f0fu;
    let nibbles = vec4<u32>(q, q >> 8u, q >> 16u, q >> 24u) & vec4<u32>(255u);
    return chunk.scale.x * vec4<f32>(nibbles) + chunk.scale.y;
}
