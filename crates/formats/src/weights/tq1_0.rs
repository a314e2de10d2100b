//! TQ1_0: five ternary digits q in a byte, as a fraction of 256 in base 3, and a half d; d·(q − 1).
//! A GPU holds it as TQ2_0.

use super::tq2_0::LAYOUT;
use super::{Blocks, Codes, Halves, Spec, UNIT, Unit, half_bits, put_pairs, set_half};

pub struct TQ1_0;

/// Element `i` of a block: 160 in 32 bytes, 80 in 16, and 16 in 4 of which each holds four.
#[inline(always)]
fn digit(block: &[u8], i: usize) -> u8 {
    let (byte, power) = match i {
        0..160 => (block[i % 32], i / 32),
        160..240 => (block[32 + i % 16], (i - 160) / 16),
        _ => (block[48 + i % 4], (i - 240) / 4),
    };
    let fraction = byte.wrapping_mul([1, 3, 9, 27, 81][power]);
    ((u16::from(fraction) * 3) >> 8) as u8
}

impl Blocks for TQ1_0 {
    const SPEC: Spec = Spec { name: "TQ1_0", ggml_id: 34, block_len: 256, block_bytes: 54, layout: LAYOUT };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let mut codes = [0; UNIT];
        // Not `array::from_fn`, which is not compiled for the instruction set of the kernel that asks.
        for (l, code) in codes.iter_mut().enumerate() {
            *code = digit(block, 32 * index + l).wrapping_sub(1);
        }
        Unit { codes: Codes::Unpacked(codes), scale: [half.of(half_bits(block, 52)); 2], min: None }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..2].copy_from_slice(&block[52..]);
        for (index, out) in quants.chunks_exact_mut(8).enumerate() {
            put_pairs(|l| digit(block, 32 * index + l), out);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 52, number() / 2.0);
    }
}
