//! Products with a frozen weight, dequantised a few rows at a time inside the product.

use super::{Real, WeightRef, gemm};

/// Rows of the weight that are dense at a time.
const ROWS: usize = 64;

/// Y`[m, rows]` = α · X`[m, cols]` · W`[rows, cols]`ᵀ + β · Y: forward.
pub fn linear_nt<T: Real>(x: &[T], w: WeightRef<'_>, y: &mut [T], m: usize, alpha: T, beta: T) {
    w.check();
    assert_eq!(
        (x.len(), y.len()),
        (m * w.cols, m * w.rows),
        "linear_nt lengths"
    );
    if m == 0 {
        return;
    }
    let mut dense = Vec::new();
    for row in (0..w.rows).step_by(ROWS) {
        let count = ROWS.min(w.rows - row);
        dense_rows(w, row, count, &mut dense);
        gemm::strided(
            m,
            count,
            w.cols,
            x,
            (w.cols, 1),
            &dense,
            (1, w.cols),
            &mut y[row..],
            w.rows,
            alpha,
            beta,
        );
    }
}

/// dX`[m, cols]` = α · dY`[m, rows]` · W`[rows, cols]` + β · dX: backward.
pub fn linear_nn<T: Real>(dy: &[T], w: WeightRef<'_>, dx: &mut [T], m: usize, alpha: T, beta: T) {
    w.check();
    assert_eq!(
        (dy.len(), dx.len()),
        (m * w.rows, m * w.cols),
        "linear_nn lengths"
    );
    if m == 0 {
        return;
    }
    let (mut dense, mut beta) = (Vec::new(), beta);
    for row in (0..w.rows).step_by(ROWS) {
        let count = ROWS.min(w.rows - row);
        dense_rows(w, row, count, &mut dense);
        gemm::strided(
            m,
            w.cols,
            count,
            &dy[row..],
            (w.rows, 1),
            &dense,
            (w.cols, 1),
            dx,
            w.cols,
            alpha,
            beta,
        );
        beta = T::ONE;
    }
}

fn dense_rows<T: Real>(w: WeightRef<'_>, start: usize, count: usize, dense: &mut Vec<T>) {
    let mut row = vec![0.0; w.cols];
    dense.clear();
    for r in start..start + count {
        w.dequantize(r, 0, &mut row);
        dense.extend(row.iter().map(|&x| T::from_f32(x)));
    }
}
