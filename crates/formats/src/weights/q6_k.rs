//! Q6_K: 128 bytes of four lower bits, 64 bytes of two upper ones, 16 signed bytes of scales, a
//! half d; d·scale·(q − 32), with a scale for 16 elements.

use super::{Blocks, Codes, Field, Halves, Layout, Spec, Unit, bytes, half_bits, put_nibbles, put_pairs, set_half};

pub struct Q6_K;

/// The four lower bits: of 128 elements in 64 bytes, the first 64 stand in the low nibbles.
#[inline(always)]
fn low(block: &[u8], index: usize) -> Field<'_> {
    Field { bytes: bytes(block, index / 4 * 64 + index % 2 * 32), shift: index as u32 % 4 / 2 * 4, mask: 15 }
}

impl Blocks for Q6_K {
    const SPEC: Spec = Spec {
        name: "Q6_K",
        ggml_id: 14,
        block_len: 256,
        block_bytes: 210,
        layout: Layout { shader: "q6_k", chunk: 32, group: 1, quants: 32, scales: 21 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let (low, high) = (low(block, index), Field::two_bits(block, 128, index));
        let codes = Codes::Fields(low, Some((high, 4)), 32);
        let d = half.of(half_bits(block, 208));
        let scale = bytes::<2>(block, 192 + 2 * index).map(|s| d * f32::from(s as i8));
        Unit { codes, scale, min: None }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..2].copy_from_slice(&block[208..]);
        scales[4..20].copy_from_slice(&block[192..208]);
        let highs = scales[20..].chunks_exact_mut(8);
        for (index, (quants, highs)) in quants.chunks_exact_mut(16).zip(highs).enumerate() {
            let (low, high) = (low(block, index), Field::two_bits(block, 128, index));
            put_nibbles(|l| low.of(l), quants);
            put_pairs(|l| high.of(l), highs);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 208, number() / 4096.0);
    }
}
