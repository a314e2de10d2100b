//! Q5_0: a half d, a word of fifth bits and 16 bytes of nibbles; d·(q − 16).

use super::{
    Blocks, Codes, Halves, Layout, Quantizer, Spec, Unit, bytes, furthest, half_bits, put_bits, put_nibbles, set_half,
    set_scale,
};

pub struct Q5_0;

impl Blocks for Q5_0 {
    const SPEC: Spec = Spec {
        name: "Q5_0",
        ggml_id: 6,
        block_len: 32,
        block_bytes: 22,
        layout: Layout { shader: "q5_0", chunk: 32, group: 2, quants: 8, scales: 3 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        let codes = Codes::Fives(bytes(block, 6), bytes(block, 2), 16);
        Unit { codes, scale: [half.of(half_bits(block, 0)); 2], min: None }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[2 * index..][..2].copy_from_slice(&block[..2]);
        scales[4 + 4 * index..][..4].copy_from_slice(&block[2..6]);
        quants[16 * index..][..16].copy_from_slice(&block[6..]);
    }

    // As in Q4_0.
    const QUANTIZE: Option<Quantizer> = Some(|values, block| {
        let inverse = set_scale(block, furthest(values) / -16.0);
        let code = |i: usize| ((values[i] * inverse + 16.5) as u8).min(31);
        put_bits(|i| code(i) >> 4, &mut block[2..6]);
        put_nibbles(code, &mut block[6..]);
    });

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 16.0);
    }
}
