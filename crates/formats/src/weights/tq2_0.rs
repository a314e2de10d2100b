//! TQ2_0: 64 bytes of two-bit q and a half d; d·(q − 1).

use super::{Blocks, Codes, Field, Halves, Layout, Spec, Unit, half_bits, put_pairs, set_half};

pub struct TQ2_0;

impl Blocks for TQ2_0 {
    const SPEC: Spec = Spec { name: "TQ2_0", ggml_id: 35, block_len: 256, block_bytes: 66, layout: LAYOUT };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let q = Field::two_bits(block, 0, index);
        let codes = Codes::Fields(q, None, 1);
        Unit { codes, scale: [half.of(half_bits(block, 64)); 2], min: None }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..2].copy_from_slice(&block[64..]);
        for (index, out) in quants.chunks_exact_mut(8).enumerate() {
            let q = Field::two_bits(block, 0, index);
            put_pairs(|l| q.of(l), out);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 64, number() / 2.0);
    }
}

/// Two bits an element and a half d for 256: TQ1_0's, too.
pub(super) const LAYOUT: Layout = Layout { shader: "tq2_0", chunk: 32, group: 1, quants: 16, scales: 1 };
