//! Q3_K: 32 bytes of third bits, 64 bytes of the two lower ones, twelve bytes of six-bit scales, a
//! half d; d·(scale − 32)·(q − 4), with a scale for 16 elements.

use super::{Blocks, Codes, Field, Halves, Layout, Spec, Unit, bytes, half_bits, put_bits, put_pairs, set_half};

pub struct Q3_K;

/// The scale of sixteenth `i` of a block.
#[inline(always)]
fn scale(scales: &[u8; 12], i: usize) -> i8 {
    let low = scales[i % 8] >> (i / 8 * 4) & 15;
    let high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

impl Blocks for Q3_K {
    const SPEC: Spec = Spec {
        name: "Q3_K",
        ggml_id: 11,
        block_len: 256,
        block_bytes: 110,
        layout: Layout { shader: "q3_k", chunk: 32, group: 1, quants: 16, scales: 13 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let (high, q) = (Field::bit(block, 0, index), Field::two_bits(block, 32, index));
        let codes = Codes::Fields(q, Some((high, 2)), 4);
        let d = half.of(half_bits(block, 108));
        let scale = |i| d * f32::from(scale(bytes(block, 96), i));
        Unit { codes, scale: [scale(2 * index), scale(2 * index + 1)], min: None }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..2].copy_from_slice(&block[108..]);
        for i in 0..16 {
            scales[4 + i] = scale(bytes(block, 96), i) as u8;
        }
        let highs = scales[20..].chunks_exact_mut(4);
        for (index, (quants, highs)) in quants.chunks_exact_mut(8).zip(highs).enumerate() {
            let (high, q) = (Field::bit(block, 0, index), Field::two_bits(block, 32, index));
            put_pairs(|l| q.of(l), quants);
            put_bits(|l| high.of(l), highs);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 108, number() / 128.0);
    }
}
