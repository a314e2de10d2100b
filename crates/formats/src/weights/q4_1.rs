//! Q4_1: halves d and m, and 16 bytes of nibbles q; d·q + m.

use super::{Blocks, Codes, Halves, Layout, Spec, Unit, bytes, half_bits, set_half, split_header};

pub struct Q4_1;

impl Blocks for Q4_1 {
    const SPEC: Spec = Spec {
        name: "Q4_1",
        ggml_id: 3,
        block_len: 32,
        block_bytes: 20,
        layout: Layout { shader: "q4_1", chunk: 32, group: 1, quants: 4, scales: 1 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        let (d, m) = (half.of(half_bits(block, 0)), half.of(half_bits(block, 2)));
        Unit { codes: Codes::Nibbles(bytes(block, 4)), scale: [d; 2], min: Some([m; 2]) }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        split_header::<4>(block, index, quants, scales);
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        let d = number() / 8.0;
        set_half(block, 0, d);
        set_half(block, 2, -8.0 * d + 0.1 * number());
    }
}
