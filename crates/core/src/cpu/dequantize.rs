//! Whole blocks of each format to f32, a vector at a time: the same values, bit for bit, as
//! [`bft_formats::dequantize_row`] gives.

use bft_formats::DType;

use super::simd::{Simd, half_to_f32};

/// Elements in a block of the formats that have any.
const BLOCK: usize = 32;

/// Writes the elements of `bytes`, whole blocks, to `out`.
#[inline(always)]
pub(super) fn dequantize<S: Simd>(s: S, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        bytes.len(),
        out.len() / dtype.block_len() * dtype.block_bytes(),
        "whole blocks"
    );
    assert!(out.len().is_multiple_of(dtype.block_len()), "whole blocks");
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    match dtype {
        DType::F32 => {
            let from = bytes.as_ptr().cast::<f32>();
            for i in (0..out.len()).step_by(S::LANES) {
                let n = S::LANES.min(out.len() - i);
                // SAFETY: n elements from i on are inside both; vectors need no alignment.
                unsafe {
                    let to = out.as_mut_ptr().add(i);
                    if n == S::LANES {
                        s.store(to, s.load(from.add(i)));
                    } else {
                        s.store_first(to, s.load_first(from.add(i), n), n);
                    }
                }
            }
        }
        DType::F16 | DType::BF16 => {
            let whole = out.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: LANES elements from i on are inside both.
                unsafe {
                    let from = bytes.as_ptr().add(2 * i);
                    let x = if dtype == DType::F16 {
                        s.load_f16(from)
                    } else {
                        s.load_bf16(from)
                    };
                    s.store(out.as_mut_ptr().add(i), x);
                }
            }
            for (x, b) in out[whole..]
                .iter_mut()
                .zip(bytes[2 * whole..].chunks_exact(2))
            {
                let bits = u16::from_le_bytes([b[0], b[1]]);
                *x = if dtype == DType::F16 {
                    half_to_f32(bits)
                } else {
                    f32::from_bits(u32::from(bits) << 16)
                };
            }
        }
        DType::Q8_0 => {
            for (out, b) in out.chunks_exact_mut(BLOCK).zip(blocks) {
                // SAFETY: the block has 34 bytes; then LANES of its 32 elements.
                unsafe {
                    let (d, _) = s.splat_f16_pair(b.as_ptr());
                    for i in (0..BLOCK).step_by(S::LANES) {
                        s.store(
                            out.as_mut_ptr().add(i),
                            s.mul(d, s.load_i8(b.as_ptr().add(2 + i))),
                        );
                    }
                }
            }
        }
        DType::Q4_0 | DType::Q4_1 => {
            let (centre, quants) = (s.splat(-8.0), dtype.block_bytes() - BLOCK / 2);
            for (out, b) in out.chunks_exact_mut(BLOCK).zip(blocks) {
                // SAFETY: the block has 18 or 20 bytes; then LANES of its last 16 bytes and the elements they make.
                unsafe {
                    let (d, m) = s.splat_f16_pair(b.as_ptr());
                    // d · q − 8 · d is d · (q − 8) exactly: it has 15 bits.
                    let m = if dtype == DType::Q4_0 {
                        s.mul(d, centre)
                    } else {
                        m
                    };
                    for i in (0..BLOCK / 2).step_by(S::LANES) {
                        let (low, high) = s.load_nibbles(b.as_ptr().add(quants + i), d, m);
                        s.store(out.as_mut_ptr().add(i), low);
                        s.store(out.as_mut_ptr().add(i + BLOCK / 2), high);
                    }
                }
            }
        }
    }
}
