//! Q4_0: a half d and 16 bytes of nibbles q; d·(q − 8).

use super::{
    Blocks, Codes, Halves, Layout, Quantizer, Spec, Unit, bytes, furthest, half_bits, put_nibbles, set_half, set_scale,
    split_header,
};

pub struct Q4_0;

impl Blocks for Q4_0 {
    const SPEC: Spec = Spec {
        name: "Q4_0",
        ggml_id: 2,
        block_len: 32,
        block_bytes: 18,
        layout: Layout { shader: "q4_0", chunk: 32, group: 2, quants: 8, scales: 1 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        let d = half.of(half_bits(block, 0));
        // d · q − 8 · d is d · (q − 8) exactly: it has 15 bits.
        Unit { codes: Codes::Nibbles(bytes(block, 2)), scale: [d; 2], min: Some([-8.0 * d; 2]) }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        split_header::<2>(block, index, quants, scales);
    }

    // The number that is furthest from 0 gets the code that is furthest from 8.
    const QUANTIZE: Option<Quantizer> = Some(|values, block| {
        let inverse = set_scale(block, furthest(values) / -8.0);
        put_nibbles(|i| ((values[i] * inverse + 8.5) as u8).min(15), &mut block[2..]);
    });

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 8.0);
    }
}
