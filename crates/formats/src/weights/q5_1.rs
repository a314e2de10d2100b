//! Q5_1: halves d and m, a word of fifth bits and 16 bytes of nibbles; d·q + m.

use super::{Blocks, Codes, Halves, Layout, Spec, Unit, bytes, half_bits, set_half};

pub struct Q5_1;

impl Blocks for Q5_1 {
    const SPEC: Spec = Spec {
        name: "Q5_1",
        ggml_id: 7,
        block_len: 32,
        block_bytes: 24,
        layout: Layout { shader: "q5_1", chunk: 32, group: 1, quants: 4, scales: 2 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        let (d, m) = (half.of(half_bits(block, 0)), half.of(half_bits(block, 2)));
        Unit { codes: Codes::Fives(bytes(block, 8), bytes(block, 4), 0), scale: [d; 2], min: Some([m; 2]) }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales.copy_from_slice(&block[..8]);
        quants.copy_from_slice(&block[8..]);
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        let d = number() / 16.0;
        set_half(block, 0, d);
        set_half(block, 2, -16.0 * d + 0.1 * number());
    }
}
