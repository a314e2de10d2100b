//! Blocks of a frozen or dense matrix become f32 panels in the order the product reads them.

use std::ops::Range;

use super::WeightRef;
use super::dequantize::dequantize;
use super::simd::Simd;

/// The right operand B`[k, n]` of a product.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// B = W`[rows, cols]`
    Rows(WeightRef<'a>),
    /// B = Wᵀ`[cols, rows]`
    Columns(WeightRef<'a>),
}

/// Terms whose rows of W are turned into columns at a time: whole blocks, and columns that stay in the first cache.
const STRIP: usize = 64;

impl Right<'_> {
    /// Writes B[k, n] to `out[k.len(), width]`, `width >= n.len()`, with zeros right of `n`. k begins on a block.
    #[inline(always)]
    pub(super) fn pack<S: Simd>(
        self,
        s: S,
        k: Range<usize>,
        n: Range<usize>,
        width: usize,
        out: &mut [f32],
    ) {
        match self {
            Right::Rows(w) => pack_rows(s, w, k, n, width, out),
            Right::Columns(w) => pack_columns(s, w, k, n, width, out),
        }
    }
}

#[inline(always)]
fn pack_rows<S: Simd>(
    s: S,
    w: WeightRef<'_>,
    k: Range<usize>,
    n: Range<usize>,
    width: usize,
    out: &mut [f32],
) {
    // Panels need not begin where blocks do.
    let block = w.dtype.block_len();
    let (first, end) = (n.start / block * block, n.end.next_multiple_of(block));
    let mut row = [0.0; 48 + 2 * 32];
    let row = &mut row[..end - first];
    for (k, out) in k.zip(out.chunks_exact_mut(width)) {
        let (out, right) = out.split_at_mut(n.len());
        if row.len() == out.len() {
            dequantize(s, w.dtype, w.blocks(k, first..end), out);
        } else {
            dequantize(s, w.dtype, w.blocks(k, first..end), row);
            out.copy_from_slice(&row[n.start - first..][..n.len()]);
        }
        right.fill(0.0);
    }
}

#[inline(always)]
fn pack_columns<S: Simd>(
    s: S,
    w: WeightRef<'_>,
    k: Range<usize>,
    n: Range<usize>,
    width: usize,
    out: &mut [f32],
) {
    let mut rows = [[0.0; STRIP]; 48];
    for (k_start, out) in k.clone().step_by(STRIP).zip(out.chunks_mut(width * STRIP)) {
        let k_end = k.end.min(k_start + STRIP);
        for (row, n) in rows.iter_mut().zip(n.clone()) {
            dequantize(
                s,
                w.dtype,
                w.blocks(n, k_start..k_end),
                &mut row[..k_end - k_start],
            );
        }
        for row in &mut rows[n.len()..width] {
            row.fill(0.0);
        }
        for (k, out) in out.chunks_exact_mut(width).enumerate() {
            for (out, row) in out.iter_mut().zip(&rows) {
                *out = row[k];
            }
        }
    }
}
