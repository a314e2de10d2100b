//! IQ4_NL: a half d and 16 bytes of nibbles, which number values that lie closer together near
//! zero.

use super::{Blocks, Codes, Halves, Layout, Spec, Unit, bytes, half_bits, set_half, split_header};

pub struct IQ4_NL;

/// What the sixteen codes stand for.
pub(super) static VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Blocks for IQ4_NL {
    const SPEC: Spec = Spec {
        name: "IQ4_NL",
        ggml_id: 20,
        block_len: 32,
        block_bytes: 18,
        layout: Layout { shader: "iq4_nl", chunk: 32, group: 2, quants: 8, scales: 1 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        Unit { codes: Codes::Table(bytes(block, 2), &VALUES), scale: [half.of(half_bits(block, 0)); 2], min: None }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        split_header::<2>(block, index, quants, scales);
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 127.0);
    }
}
