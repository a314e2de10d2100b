//! IQ4_XS: a half d, six-bit scales (two upper bits in a half word, four lower ones in four bytes),
//! 128 bytes of nibbles that number the values of IQ4_NL; d·(scale − 32)·value, with a scale for 32
//! elements.

use super::iq4_nl::VALUES;
use super::{Blocks, Codes, Halves, Layout, Spec, Unit, bytes, half_bits, set_half};

pub struct IQ4_XS;

#[inline(always)]
fn scale(block: &[u8], index: usize) -> i8 {
    let low = block[4 + index / 2] >> (index % 2 * 4) & 15;
    let high = (half_bits(block, 2) >> (2 * index) & 3) as u8;
    (low | high << 4) as i8 - 32
}

impl Blocks for IQ4_XS {
    const SPEC: Spec = Spec {
        name: "IQ4_XS",
        ggml_id: 23,
        block_len: 256,
        block_bytes: 136,
        layout: Layout { shader: "iq4_xs", chunk: 32, group: 1, quants: 32, scales: 3 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let d = half.of(half_bits(block, 0)) * f32::from(scale(block, index));
        Unit { codes: Codes::Table(bytes(block, 8 + 16 * index), &VALUES), scale: [d; 2], min: None }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..2].copy_from_slice(&block[..2]);
        for index in 0..8 {
            scales[4 + index] = scale(block, index) as u8;
        }
        quants.copy_from_slice(&block[8..]);
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 4064.0);
    }
}
