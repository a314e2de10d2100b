// Weights in Q8_0: blocks of 32 with w = d q, q a signed byte. A chunk is half a block: 16 bytes of
// `w_quants` in order, and half a word of `w_scales` with the block's d in f16.
@group(0) @binding(2) var<storage, read> w_quants: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> w_scales: array<u32>;

const CHUNK: u32 = 16u;

// Bytes raised by 128, so that they have no sign; d and -128 d.
struct Chunk { quants: vec4<u32>, scale: vec2<f32> }

// As loaded: to be opened when it is needed, so that nothing waits for the load before.
struct PackedChunk { quants: vec4<u32>, scale: u32, shift: u32 }

fn fetch_chunk(index: u32) -> PackedChunk {
    return PackedChunk(w_quants[index], w_scales[index >> 2u], 8u * (index & 2u));
}

fn open_chunk(packed: PackedChunk, first: u32) -> Chunk {
    let d = unpack2x16float(packed.scale >> packed.shift).x;
    return Chunk(packed.quants ^ vec4<u32>(0x80808080u), d * vec2<f32>(1.0, -128.0));
}

fn load_chunk(index: u32) -> Chunk {
    return open_chunk(fetch_chunk(index), 0u);
}

fn weight4(chunk: Chunk, i: u32) -> vec4<f32> {
    // Four bytes, which cards turn into floats at once.
    let q = chunk.quants[i];
    let bytes = vec4<u32>(q, q >> 8u, q >> 16u, q >> 24u) & vec4<u32>(255u);
    return chunk.scale.x * vec4<f32>(bytes) + chunk.scale.y;
}
