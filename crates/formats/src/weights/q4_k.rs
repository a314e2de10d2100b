//! Q4_K: halves d and dmin, twelve bytes of six-bit scales and minima, 128 bytes of four-bit q;
//! d·scale·q − dmin·min, with a scale and a minimum for 32 elements.

use super::{Blocks, Field, Halves, Layout, Spec, Unit, bytes, half_bits, put_nibbles, set_half, six_bits, unpacked};

pub struct Q4_K;

/// Scale and negative minimum of a unit: what Q4_K and Q5_K begin with.
#[inline(always)]
pub(super) fn scale_and_min(block: &[u8], index: usize, half: impl Halves) -> (f32, f32) {
    let (d, dmin) = (half.of(half_bits(block, 0)), half.of(half_bits(block, 2)));
    let (scale, min) = six_bits(bytes(block, 4), index);
    (d * f32::from(scale), -(dmin * f32::from(min)))
}

/// d and dmin, then scale and minimum of each unit as bytes.
pub(super) fn regroup_scales(block: &[u8], scales: &mut [u8]) {
    scales[..4].copy_from_slice(&block[..4]);
    for index in 0..8 {
        let (scale, min) = six_bits(bytes(block, 4), index);
        scales[4 + 2 * index..][..2].copy_from_slice(&[scale, min]);
    }
}

impl Blocks for Q4_K {
    const SPEC: Spec = Spec {
        name: "Q4_K",
        ggml_id: 12,
        block_len: 256,
        block_bytes: 144,
        layout: Layout { shader: "q4_k", chunk: 32, group: 1, quants: 32, scales: 5 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let q = Field::four_bits(block, 16, index);
        let (scale, min) = scale_and_min(block, index, half);
        Unit { codes: unpacked(|l| q.of(l)), scale: [scale; 2], min: Some([min; 2]) }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        regroup_scales(block, scales);
        for (index, out) in quants.chunks_exact_mut(16).enumerate() {
            let q = Field::four_bits(block, 16, index);
            put_nibbles(|l| q.of(l), out);
        }
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 945.0);
        set_half(block, 2, number() / 126.0);
    }
}
