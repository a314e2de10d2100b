//! MXFP4 (Open Compute Project): a byte of exponent e and 16 bytes of four-bit floats; 2^(e −
//! 127)·value.

use super::{Blocks, Codes, Halves, Layout, Spec, Unit, bytes};

pub struct MXFP4;

/// Twice what the sixteen codes stand for.
static DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Blocks for MXFP4 {
    const SPEC: Spec = Spec {
        name: "MXFP4",
        ggml_id: 39,
        block_len: 32,
        block_bytes: 17,
        layout: Layout { shader: "mxfp4", chunk: 32, group: 4, quants: 16, scales: 1 },
    };

    #[inline(always)]
    fn unit(block: &[u8], _: usize, _: impl Halves) -> Unit<'_> {
        // 2^(e − 128), which is subnormal for the two smallest e.
        let e = u32::from(block[0]);
        let d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
        Unit { codes: Codes::Table(bytes(block, 1), &DOUBLED), scale: [d; 2], min: None }
    }

    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
        scales[index] = block[0];
        quants[16 * index..][..16].copy_from_slice(&block[1..]);
    }

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        // Sixteenths to quarters of 6, the largest value.
        block[0] = if number() < 0.0 { 123 } else { 125 };
    }
}
