//! Products with a frozen weight, dequantised a few rows at a time inside the product.

use bft_formats::dequantize_row;

use super::pack::Right;
use super::product::product;
use super::tile::Left;
use super::weight::WeightRef;
use super::{gemm, small};
use crate::real::Real;

/// Rows of the weight that are dense at a time on the slow road.
const ROWS: usize = 64;

/// Y`[m, rows]` = α · X`[m, cols]` · W`[rows, cols]`ᵀ + β · Y: forward.
pub fn linear_nt<T: Real>(x: &[T], w: WeightRef<'_>, y: &mut [T], m: usize, alpha: T, beta: T) {
    w.check();
    assert_eq!((x.len(), y.len()), (m * w.cols, m * w.rows), "linear_nt lengths");
    if let (Some(x), Some(y)) = (T::f32s(x), T::f32s_mut(y)) {
        let (alpha, beta) = (alpha.to_f32(), beta.to_f32());
        if m <= small::MAX_ROWS {
            return small::product(x, w, y, m, alpha, beta);
        }
        let (x, w_t) = (Left::Rows(x, w.cols), Right::Columns(w));
        return product((m, w.rows, w.cols), x, w_t, y, w.rows, alpha, beta);
    }
    for row in (0..w.rows).step_by(ROWS) {
        let count = ROWS.min(w.rows - row);
        let dense = dense_rows(w.rows(row, count));
        gemm::strided((m, count, w.cols), (x, w.cols, 1), (&dense, 1, w.cols), &mut y[row..], w.rows, alpha, beta);
    }
}

/// dX`[m, cols]` = α · dY`[m, rows]` · W`[rows, cols]` + β · dX: backward.
pub fn linear_nn<T: Real>(dy: &[T], w: WeightRef<'_>, dx: &mut [T], m: usize, alpha: T, beta: T) {
    w.check();
    assert_eq!((dy.len(), dx.len()), (m * w.rows, m * w.cols), "linear_nn lengths");
    if let (Some(dy), Some(dx)) = (T::f32s(dy), T::f32s_mut(dx)) {
        let (dy, w_rows) = (Left::Rows(dy, w.rows), Right::Rows(w));
        return product((m, w.cols, w.rows), dy, w_rows, dx, w.cols, alpha.to_f32(), beta.to_f32());
    }
    let mut beta = beta;
    for row in (0..w.rows).step_by(ROWS) {
        let count = ROWS.min(w.rows - row);
        let dense = dense_rows(w.rows(row, count));
        gemm::strided((m, w.cols, count), (&dy[row..], w.rows, 1), (&dense, w.cols, 1), dx, w.cols, alpha, beta);
        beta = T::ONE;
    }
}

fn dense_rows<T: Real>(w: WeightRef<'_>) -> Vec<T> {
    let mut dense = vec![0.0; w.rows * w.cols];
    dequantize_row(w.dtype, w.data, &mut dense);
    dense.into_iter().map(T::from_f32).collect()
}
