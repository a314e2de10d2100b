//! Y = α · X·Wᵀ + β · Y for a few rows of X, as in generation: bounded by reading W once.
//!
//! Rows of W become f32 in the first cache and are multiplied from there, so that nothing is turned into columns.

use std::ops::Range;

use rayon::prelude::*;

use super::WeightRef;
use super::dequantize::dequantize;
use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch};

/// Rows of X up to which this is faster than packed panels.
pub(super) const MAX_ROWS: usize = 12;
/// Rows of W that share the loads of X.
const GROUP: usize = 4;
/// Rows of W in a task.
const TASK: usize = 64;
/// Elements of W below which a second thread costs more than it gives.
const MIN_WORK: usize = 100_000;

/// Y`[m, rows]` = α · X`[m, cols]` · W`[rows, cols]`ᵀ + β · Y
pub(super) fn product(x: &[f32], w: WeightRef<'_>, y: &mut [f32], m: usize, alpha: f32, beta: f32) {
    assert_eq!(
        (x.len(), y.len()),
        (m * w.cols, m * w.rows),
        "small product lengths"
    );
    let y = Output(y.as_mut_ptr());
    let task = |rows: Range<usize>| {
        dispatch(Task {
            x,
            w,
            y,
            m,
            alpha,
            beta,
            rows,
        })
    };
    if w.rows * w.cols < MIN_WORK || rayon::current_num_threads() == 1 {
        return task(0..w.rows);
    }
    (0..w.rows.div_ceil(TASK))
        .into_par_iter()
        .for_each(|i| task(i * TASK..w.rows.min((i + 1) * TASK)));
}

struct Task<'a> {
    x: &'a [f32],
    w: WeightRef<'a>,
    y: Output,
    m: usize,
    alpha: f32,
    beta: f32,
    rows: Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.w.cols;
        let stride = cols.next_multiple_of(S::LANES);
        let mut scratch = Scratch::take(GROUP * stride);
        let dense = &mut scratch.floats()[..GROUP * stride];
        // The last group may be short, and the last vector of a row: what they read beyond must be finite.
        dense.fill(0.0);
        for first in self.rows.clone().step_by(GROUP) {
            let count = GROUP.min(self.rows.end - first);
            for (i, dense) in dense.chunks_exact_mut(stride).enumerate().take(count) {
                dequantize(
                    s,
                    self.w.dtype,
                    self.w.blocks(first + i, 0..cols),
                    &mut dense[..cols],
                );
            }
            let mut row = 0;
            while row + 4 <= self.m {
                self.dots::<S, 4>(s, dense, stride, first..first + count, row);
                row += 4;
            }
            while row + 2 <= self.m {
                self.dots::<S, 2>(s, dense, stride, first..first + count, row);
                row += 2;
            }
            if row < self.m {
                self.dots::<S, 1>(s, dense, stride, first..first + count, row);
            }
        }
    }
}

impl Task<'_> {
    /// M rows of X from `row` on, against the rows `group` of W, which are in `dense`.
    #[inline(always)]
    fn dots<S: Simd, const M: usize>(
        &self,
        s: S,
        dense: &[f32],
        stride: usize,
        group: Range<usize>,
        row: usize,
    ) {
        let cols = self.w.cols;
        let x = &self.x[row * cols..(row + M) * cols];
        let mut sums = [[s.splat(0.0); GROUP]; M];
        for k in (0..cols).step_by(S::LANES) {
            let mut right = [s.splat(0.0); GROUP];
            for (i, right) in right.iter_mut().enumerate() {
                // SAFETY: rows of `dense` are whole vectors.
                *right = unsafe { s.load(dense.as_ptr().add(i * stride + k)) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row i of `x` from k on, and no further.
                let left = unsafe {
                    let at = x.as_ptr().add(i * cols + k);
                    if k + S::LANES <= cols {
                        s.load(at)
                    } else {
                        s.load_first(at, cols - k)
                    }
                };
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = s.mul_add(left, right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (n, &sum) in group.clone().zip(sums) {
                // SAFETY: y[row + i, n], which only this task writes.
                unsafe {
                    let y = self.y.0.add((row + i) * self.w.rows + n);
                    let old = if self.beta == 0.0 {
                        0.0
                    } else {
                        self.beta * *y
                    };
                    *y = self.alpha * s.sum(sum) + old;
                }
            }
        }
    }
}
