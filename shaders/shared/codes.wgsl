// What formats of blocks have in common: chunks of 32 weights, whose codes are taken four at a
// time. Four bits: byte j of 16 has weight j low and weight j + 16 high. Two bits: byte i of 8 has
// weights 4 i to 4 i + 3, the first lowest. One bit: weight j at bit j.
//
// The fragment around it has `w_quants`, `Chunk`, and `PackedChunk`, which is a chunk as loaded: to
// be opened when it is needed, so that nothing waits for the load before. `weight4` then counts
// from the four weights number `first`, 0 or 4.
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 32u;

fn load_chunk(index: u32) -> Chunk {
    return open_chunk(fetch_chunk(index), 0u);
}

// Two bytes for each of a block's eight chunks, from word `first` on: those of chunk `index`,
// lowest.
fn two_bytes(first: u32, index: u32) -> u32 {
    return w_scales[first + ((index >> 1u) & 3u)] >> (16u * (index & 1u));
}

fn bytes4(q: u32) -> vec4<u32> {
    // Four bytes, which cards turn into floats at once.
    return vec4<u32>(q, q >> 8u, q >> 16u, q >> 24u) & vec4<u32>(255u);
}

fn nibbles4(quants: vec4<u32>, i: u32) -> vec4<u32> {
    return bytes4((quants[i & 3u] >> (i & 4u)) & 0x0f0f0f0fu);
}

fn pairs4(pairs: vec2<u32>, i: u32) -> vec4<u32> {
    let byte = pairs[i >> 2u] >> (8u * (i & 3u));
    return (vec4<u32>(byte) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
}

fn bits4(bits: u32, i: u32) -> vec4<u32> {
    return (vec4<u32>(bits >> (4u * i)) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u);
}

fn signed_byte(word: u32, byte: u32) -> f32 {
    return f32(i32(word << (24u - 8u * byte)) >> 24u);
}

// The upper half of the pairs, for a chunk of which the second half is wanted.
fn pairs_from(pairs: vec2<u32>, first: u32) -> vec2<u32> {
    return select(pairs, pairs.yy, first > 0u);
}

fn halves_from(halves: vec2<f32>, first: u32) -> vec2<f32> {
    return select(halves, halves.yy, first > 0u);
}
