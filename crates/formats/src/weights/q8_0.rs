//! Q8_0: a half d and 32 signed bytes q; d·q.

use super::{
    Blocks, Codes, Halves, Layout, Quantizer, Spec, Unit, bytes, furthest, half_bits, set_half, set_scale, split_header,
};

pub struct Q8_0;

impl Blocks for Q8_0 {
    const SPEC: Spec = Spec {
        name: "Q8_0",
        ggml_id: 8,
        block_len: 32,
        block_bytes: 34,
        layout: Layout { shader: "q8_0", chunk: 16, group: 2, quants: 16, scales: 1 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, half: impl Halves) -> Unit<'_> {
        Unit { codes: Codes::Bytes(bytes(block, 2)), scale: [half.of(half_bits(block, 0)); 2], min: None }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        split_header::<2>(block, index, quants, scales);
    }

    const QUANTIZE: Option<Quantizer> = Some(|values, block| {
        let inverse = set_scale(block, furthest(values).abs() / 127.0);
        for (value, q) in values.iter().zip(&mut block[2..]) {
            *q = (value * inverse).round() as i8 as u8;
        }
    });

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 127.0);
    }
}
