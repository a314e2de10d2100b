//! Y = α · X·Wᵀ + β · Y for a few rows of X, as in generation: bounded by reading W once.
//!
//! Rows of W become f32 in registers, one after the other, and are multiplied there.

use std::ops::Range;

use super::WeightRef;
use super::dequantize::for_each_vector;
use super::math::get;
use super::scratch::Output;
use super::simd::{Kernel, Simd, dispatch};
use super::team;

/// Rows of X up to which this is faster than packed panels.
pub(super) const MAX_ROWS: usize = 12;
/// Rows of W in a task.
const TASK: usize = 32;
/// Bytes of W that are asked for before they are met: memory answers within some rows' time, and a stream of few bytes a row
/// is too slow for the processor to see that it goes on.
const AHEAD: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Elements of W below which a second thread costs more than it gives.
const MIN_WORK: usize = 100_000;

/// Y`[m, rows]` = α · X`[m, cols]` · W`[rows, cols]`ᵀ + β · Y
pub(super) fn product(x: &[f32], w: WeightRef<'_>, y: &mut [f32], m: usize, alpha: f32, beta: f32) {
    assert_eq!((x.len(), y.len()), (m * w.cols, m * w.rows), "small product lengths");
    let y = Output(y.as_mut_ptr());
    let task = |rows: Range<usize>| dispatch(Task { x, w, y, m, alpha, beta, rows });
    if w.rows * w.cols < MIN_WORK {
        return task(0..w.rows);
    }
    team::for_each(w.rows.div_ceil(TASK), |i| {
        task(i * TASK..w.rows.min((i + 1) * TASK));
    });
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
        let mut row = 0;
        while row + 4 <= self.m {
            self.dots::<S, 4>(s, row);
            row += 4;
        }
        while row + 2 <= self.m {
            self.dots::<S, 2>(s, row);
            row += 2;
        }
        if row < self.m {
            self.dots::<S, 1>(s, row);
        }
    }
}

impl Task<'_> {
    /// M rows of X from `row` on, against the rows of W.
    #[inline(always)]
    fn dots<S: Simd, const M: usize>(&self, s: S, row: usize) {
        let cols = self.w.cols;
        let x = &self.x[row * cols..(row + M) * cols];
        let stride = self.w.dtype.row_bytes(cols);
        let all = &self.w.data[self.rows.start * stride..self.rows.end * stride];
        let fetch = |from: usize, to: usize| {
            let lines = all.get(from..to.min(all.len())).unwrap_or_default();
            for line in lines.chunks(LINE) {
                s.prefetch(line.as_ptr());
            }
        };
        fetch(0, AHEAD);
        for n in self.rows.clone() {
            let at = (n - self.rows.start) * stride + AHEAD;
            fetch(at, at + stride);
            let w = self.w.units(n, 0..cols);
            // Two sums, so that one addition need not wait for the last.
            let mut sums = [[s.splat(0.0); 2]; M];
            for_each_vector(s, w, |k, len, w| {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let sum = &mut sums[k / S::LANES % 2];
                    *sum = s.mul_add(get(s, x, i * cols + k, len), w, *sum);
                }
            });
            for (i, [a, b]) in sums.into_iter().enumerate() {
                // SAFETY: y[row + i, n], which only this task writes.
                unsafe {
                    let y = self.y.0.add((row + i) * self.w.rows + n);
                    let old = if self.beta == 0.0 { 0.0 } else { self.beta * *y };
                    *y = self.alpha * s.sum(s.add(a, b)) + old;
                }
            }
        }
    }
}
