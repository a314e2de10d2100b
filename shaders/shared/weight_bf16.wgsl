// Weights in BF16, a chunk is four neighbours of one row, two to a word. A bf16 is the upper half
// of an f32. `w_scales` is not used.
@group(0) @binding(2) var<storage, read> w_quants: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 4u;

struct Chunk { halves: vec2<u32> }

alias PackedChunk = Chunk;

fn fetch_chunk(index: u32) -> PackedChunk {
    return Chunk(w_quants[index]);
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    return packed;
}

fn load_chunk(index: u32) -> Chunk {
    return fetch_chunk(index);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    let q = chunk.halves;
    return bitcast<vec4<f32>>(vec4<u32>(q.x << 16u, q.x & 0xffff0000u, q.y << 16u, q.y & 0xffff0000u));
}
