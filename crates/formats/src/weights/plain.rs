//! Floats, an element each: their bytes stay as they are, on a GPU too.

use half::{bf16, f16};

use super::{Layout, Spec};

/// A format without blocks.
pub trait Plain {
    /// Its names and sizes. `block_len` is 1.
    const SPEC: Spec;
    /// The number in one element's bytes.
    fn decode(bytes: &[u8]) -> f32;
    /// The bytes of a number, rounded.
    fn encode(value: f32) -> Vec<u8>;
}

/// A group is as many elements as one word holds.
const fn spec(name: &'static str, ggml_id: u32, shader: &'static str, block_bytes: usize) -> Spec {
    let layout = Layout { shader, chunk: 4, group: 4 / block_bytes, quants: 1, scales: 0 };
    Spec { name, ggml_id, block_len: 1, block_bytes, layout }
}

pub struct F32;

impl Plain for F32 {
    const SPEC: Spec = spec("F32", 0, "f32", 4);
    fn decode(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    fn encode(value: f32) -> Vec<u8> {
        value.to_le_bytes().to_vec()
    }
}

pub struct F16;

impl Plain for F16 {
    const SPEC: Spec = spec("F16", 1, "f16", 2);
    fn decode(b: &[u8]) -> f32 {
        f16::from_le_bytes([b[0], b[1]]).to_f32()
    }
    fn encode(value: f32) -> Vec<u8> {
        f16::from_f32(value).to_le_bytes().to_vec()
    }
}

pub struct BF16;

impl Plain for BF16 {
    const SPEC: Spec = spec("BF16", 30, "bf16", 2);
    fn decode(b: &[u8]) -> f32 {
        bf16::from_le_bytes([b[0], b[1]]).to_f32()
    }
    fn encode(value: f32) -> Vec<u8> {
        bf16::from_f32(value).to_le_bytes().to_vec()
    }
}
