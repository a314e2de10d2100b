//! Q5_K: as Q4_K, with 32 bytes of fifth bits before the four lower ones.

use super::q4_k::{regroup_scales, scale_and_min};
use super::{Blocks, Codes, Field, Halves, Layout, Spec, Unit, put_bits, put_nibbles, set_half};

pub struct Q5_K;

impl Blocks for Q5_K {
    const SPEC: Spec = Spec {
        name: "Q5_K",
        ggml_id: 13,
        block_len: 256,
        block_bytes: 176,
        layout: Layout { shader: "q5_k", chunk: 32, group: 1, quants: 32, scales: 13 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let (high, q) = (Field::bit(block, 16, index), Field::four_bits(block, 48, index));
        let (scale, min) = scale_and_min(block, index, half);
        let codes = Codes::Fields(q, Some((high, 4)), 0);
        Unit { codes, scale: [scale; 2], min: Some([min; 2]) }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        regroup_scales(block, scales);
        let highs = scales[20..].chunks_exact_mut(4);
        for (index, (quants, highs)) in quants.chunks_exact_mut(16).zip(highs).enumerate() {
            let (high, q) = (Field::bit(block, 16, index), Field::four_bits(block, 48, index));
            put_nibbles(|l| q.of(l), quants);
            put_bits(|l| high.of(l), highs);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 1953.0);
        set_half(block, 2, number() / 126.0);
    }
}
