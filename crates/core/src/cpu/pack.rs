//! Blocks of a frozen or dense matrix become f32 panels in the order the product reads them.

use std::ops::Range;

use bft_formats::DType;
use bft_formats::weights::UNIT;

use super::dequantize::dequantize;
use super::simd::Simd;
use super::weight::WeightRef;

/// The right operand B`[k, n]` of a product.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// B = W`[rows, cols]`
    Rows(WeightRef<'a>),
    /// B = Wᵀ`[cols, rows]`
    Columns(WeightRef<'a>),
}

/// Terms whose rows of W are turned into columns at a time: whole units, and columns that stay in
/// the first cache.
const STRIP: usize = 64;
const _: () = assert!(STRIP.is_multiple_of(UNIT));

/// Rows of W, wider than a panel, that are decoded at a time: few, so that they stay in the first
/// cache.
const ROWS: usize = 16;

/// Columns of the widest panel that an instruction set packs.
const PANEL: usize = 48;

impl Right<'_> {
    /// Writes B[k, n] to `out[k.len(), width]`, `width >= n.len()`, with zeros right of `n`. k
    /// begins on a unit.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(self, s: S, k: Range<usize>, n: Range<usize>, width: usize, out: &mut [f32]) {
        match self {
            Right::Rows(w) => pack_rows(s, w, k, n, width, out),
            Right::Columns(w) => pack_columns(s, w, k, n, width, out),
        }
    }
}

#[inline(always)]
fn pack_rows<S: Simd>(s: S, w: WeightRef<'_>, k: Range<usize>, n: Range<usize>, width: usize, out: &mut [f32]) {
    // Panels need not begin where units do.
    let unit = w.dtype.unit_len();
    let (first, end) = (n.start / unit * unit, n.end.next_multiple_of(unit));
    if (first..end) == n {
        dequantize(s, w, k.clone(), n.clone(), out, width);
    } else {
        let mut wide = [[0.0; PANEL + 2 * UNIT]; ROWS];
        for (start, out) in k.clone().step_by(ROWS).zip(out.chunks_mut(width * ROWS)) {
            let rows = start..k.end.min(start + ROWS);
            dequantize(s, w, rows, first..end, wide.as_flattened_mut(), PANEL + 2 * UNIT);
            for (wide, out) in wide.iter().zip(out.chunks_exact_mut(width)) {
                out[..n.len()].copy_from_slice(&wide[n.start - first..][..n.len()]);
            }
        }
    }
    if n.len() < width {
        for out in out.chunks_exact_mut(width).take(k.len()) {
            out[n.len()..].fill(0.0);
        }
    }
}

#[inline(always)]
fn pack_columns<S: Simd>(s: S, w: WeightRef<'_>, k: Range<usize>, n: Range<usize>, width: usize, out: &mut [f32]) {
    let mut buffer = [[0.0f32; STRIP]; PANEL];
    for row in &mut buffer[n.len()..width] {
        row.fill(0.0);
    }
    for (start, out) in k.clone().step_by(STRIP).zip(out.chunks_mut(width * STRIP)) {
        let k = start..k.end.min(start + STRIP);
        let (from, stride) = if w.dtype == DType::F32 && n.len() == width {
            let (first, end) = (n.start * w.cols + k.start, (n.end - 1) * w.cols + k.end);
            (w.data[4 * first..4 * end].as_ptr().cast::<f32>(), w.cols)
        } else {
            dequantize(s, w, n.clone(), k.clone(), buffer.as_flattened_mut(), STRIP);
            (buffer.as_ptr().cast(), STRIP)
        };
        // SAFETY: `width` rows of `k.len()` stand at `from`, be it the buffer's or W's own; `out`
        // holds as many columns.
        unsafe { columns(s, from, stride, width, k.len(), out) };
    }
}

/// Rows to columns: `rows` of `len`, where `rows` is whole vectors.
///
/// # Safety
/// Such rows readable at `from`, not necessarily aligned.
#[inline(always)]
unsafe fn columns<S: Simd>(s: S, from: *const f32, stride: usize, rows: usize, len: usize, out: &mut [f32]) {
    assert!(rows.is_multiple_of(S::LANES) && out.len() >= rows * len, "columns of whole vectors");
    let to = out.as_mut_ptr();
    let whole = len / S::LANES * S::LANES;
    for row in (0..rows).step_by(S::LANES) {
        for k in (0..whole).step_by(S::LANES) {
            // SAFETY: LANES rows of LANES, inside both.
            unsafe { s.transpose(from.add(row * stride + k), stride, to.add(k * rows + row), rows) };
        }
    }
    for k in whole..len {
        for row in 0..rows {
            // SAFETY: inside both.
            unsafe { *to.add(k * rows + row) = from.add(row * stride + k).read_unaligned() };
        }
    }
}
