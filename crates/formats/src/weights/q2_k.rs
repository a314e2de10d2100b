//! Q2_K: 16 bytes of four-bit scales and minima, 64 bytes of two-bit q, halves d and dmin;
//! d·scale·q − dmin·min, with a scale and a minimum for 16 elements.

use super::{Blocks, Codes, Field, Halves, Layout, Spec, Unit, bytes, half_bits, put_pairs, set_half};

pub struct Q2_K;

impl Blocks for Q2_K {
    const SPEC: Spec = Spec {
        name: "Q2_K",
        ggml_id: 10,
        block_len: 256,
        block_bytes: 84,
        layout: Layout { shader: "q2_k", chunk: 32, group: 1, quants: 16, scales: 5 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let (q, scales) = (Field::two_bits(block, 16, index), bytes::<2>(block, 2 * index));
        let (d, dmin) = (half.of(half_bits(block, 80)), half.of(half_bits(block, 82)));
        let scale = scales.map(|s| d * f32::from(s & 15));
        let min = scales.map(|s| -(dmin * f32::from(s >> 4)));
        Unit { codes: Codes::Fields(q, None, 0), scale, min: Some(min) }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[..4].copy_from_slice(&block[80..]);
        scales[4..].copy_from_slice(&block[..16]);
        for (index, out) in quants.chunks_exact_mut(8).enumerate() {
            let q = Field::two_bits(block, 16, index);
            put_pairs(|l| q.of(l), out);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 80, number() / 45.0);
        set_half(block, 82, number() / 30.0);
    }
}
