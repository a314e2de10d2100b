//! Whole blocks of each format to f32, a vector at a time: the same values, bit for bit, as
//! [`bft_formats::dequantize_row`] gives.

use bft_formats::DType;

use super::simd::Simd;

/// Elements in a block of the formats that have any.
const BLOCK: usize = 32;

/// Writes the elements of `bytes`, whole blocks, to `out`.
#[inline(always)]
pub(super) fn dequantize<S: Simd>(s: S, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() / dtype.block_len() * dtype.block_bytes(), "whole blocks");
    assert!(out.len().is_multiple_of(dtype.block_len()), "whole blocks");
    for_each_vector(s, dtype, bytes, |i, n, x| {
        // SAFETY: n elements from i on are inside.
        unsafe {
            let to = out.as_mut_ptr().add(i);
            if n == S::LANES {
                s.store(to, x);
            } else {
                s.store_first(to, x, n);
            }
        }
    });
}

/// Calls `f(i, n, x)` with the elements `i..i + n` of `bytes`, whole blocks, in the first n lanes of x; the other lanes are 0. Only
/// the last call of a format without blocks has n < LANES.
#[inline(always)]
pub(super) fn for_each_vector<S: Simd>(s: S, dtype: DType, bytes: &[u8], mut f: impl FnMut(usize, usize, S::V)) {
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            let bytes_each = dtype.block_bytes();
            let len = bytes.len() / bytes_each;
            let whole = len / S::LANES * S::LANES;
            let load = |from: *const u8| {
                // SAFETY: LANES elements stand there.
                unsafe {
                    match dtype {
                        DType::F32 => s.load(from.cast()),
                        DType::F16 => s.load_f16(from),
                        _ => s.load_bf16(from),
                    }
                }
            };
            for i in (0..whole).step_by(S::LANES) {
                f(i, S::LANES, load(bytes[bytes_each * i..].as_ptr()));
            }
            if whole < len {
                let rest = &bytes[bytes_each * whole..];
                let mut padded = [0u8; 4 * 16];
                padded[..rest.len()].copy_from_slice(rest);
                f(whole, len - whole, load(padded.as_ptr()));
            }
        }
        DType::Q8_0 => {
            for (at, b) in blocks.enumerate() {
                // SAFETY: the block has 34 bytes; then LANES of its 32 elements.
                unsafe {
                    let (d, _) = s.splat_f16_pair(b.as_ptr());
                    for i in (0..BLOCK).step_by(S::LANES) {
                        let q = s.load_i8(b.as_ptr().add(2 + i));
                        f(at * BLOCK + i, S::LANES, s.mul(d, q));
                    }
                }
            }
        }
        DType::Q4_0 | DType::Q4_1 => {
            let (centre, quants) = (s.splat(-8.0), dtype.block_bytes() - BLOCK / 2);
            for (at, b) in blocks.enumerate() {
                // SAFETY: the block has 18 or 20 bytes; then LANES of its last 16 bytes and the elements they make.
                unsafe {
                    let (d, m) = s.splat_f16_pair(b.as_ptr());
                    // d · q − 8 · d is d · (q − 8) exactly: it has 15 bits.
                    let m = if dtype == DType::Q4_0 { s.mul(d, centre) } else { m };
                    for i in (0..BLOCK / 2).step_by(S::LANES) {
                        let (low, high) = s.load_nibbles(b.as_ptr().add(quants + i), d, m);
                        f(at * BLOCK + i, S::LANES, low);
                        f(at * BLOCK + BLOCK / 2 + i, S::LANES, high);
                    }
                }
            }
        }
    }
}
