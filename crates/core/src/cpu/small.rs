//! Y = α · X·Wᵀ + β · Y for a few rows of X, as in generation: bounded by reading W once.
//!
//! Rows of W become f32 one after the other: in registers for one row of X, else in the first
//! cache.

use std::ops::Range;

use super::dequantize::{Sink, dequantize, for_each_vector};
use super::math::get;
use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::team;
use super::weight::WeightRef;

/// Rows of X up to which this is faster than packed panels.
pub(super) const MAX_ROWS: usize = 12;
/// Rows of W in a task.
const TASK: usize = 32;
/// Bytes of W that are asked for before they are met: memory answers within some rows' time, and a
/// stream of few bytes a row is too slow for the processor to see that it goes on.
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
        let cols = self.w.cols;
        let stride = self.w.dtype.row_bytes(cols);
        let all = &self.w.data[self.rows.start * stride..self.rows.end * stride];
        let fetch = |from: usize, to: usize| {
            let lines = all.get(from..to.min(all.len())).unwrap_or_default();
            for line in lines.chunks(LINE) {
                s.prefetch(line.as_ptr());
            }
        };
        fetch(0, AHEAD);
        let mut scratch = Scratch::take(if self.m > 1 { cols } else { 0 });
        for n in self.rows.clone() {
            let at = (n - self.rows.start) * stride + AHEAD;
            fetch(at, at + stride);
            if self.m == 1 {
                let mut dot = Dot { x: self.x, sums: [s.splat(0.0); 2] };
                for_each_vector(s, self.w, n, 0..cols, &mut dot);
                self.store(s, 0, n, dot.sums);
                continue;
            }
            let dense = &mut scratch.floats()[..cols];
            dequantize(s, self.w, n..n + 1, 0..cols, dense, cols);
            let mut row = 0;
            while row < self.m {
                row += match self.m - row {
                    4.. => self.dots::<S, 4>(s, row, n, dense),
                    2.. => self.dots::<S, 2>(s, row, n, dense),
                    _ => self.dots::<S, 1>(s, row, n, dense),
                };
            }
        }
    }
}

/// A row of X and its two sums with a row of W.
struct Dot<'a, V> {
    x: &'a [f32],
    sums: [V; 2],
}

impl<S: Simd> Sink<S> for Dot<'_, S::V> {
    #[inline(always)]
    fn take(&mut self, s: S, k: usize, len: usize, w: S::V) {
        add(s, &mut self.sums, k, get(s, self.x, k, len), w);
    }
}

/// Adds a product of elements k and after. Two sums, so that one addition need not wait for the
/// last.
#[inline(always)]
fn add<S: Simd>(s: S, sums: &mut [S::V; 2], k: usize, x: S::V, w: S::V) {
    let sum = &mut sums[k / S::LANES % 2];
    *sum = s.mul_add(x, w, *sum);
}

impl Task<'_> {
    /// M rows of X from `row` on, against row n of W; M.
    #[inline(always)]
    fn dots<S: Simd, const M: usize>(&self, s: S, row: usize, n: usize, w: &[f32]) -> usize {
        let cols = w.len();
        let x = &self.x[row * cols..(row + M) * cols];
        let mut sums = [[s.splat(0.0); 2]; M];
        for k in (0..cols).step_by(S::LANES) {
            let len = S::LANES.min(cols - k);
            let w = get(s, w, k, len);
            for (i, sums) in sums.iter_mut().enumerate() {
                add(s, sums, k, get(s, x, i * cols + k, len), w);
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            self.store(s, row + i, n, sums);
        }
        M
    }

    /// y[row, n] from the two sums.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, row: usize, n: usize, [a, b]: [S::V; 2]) {
        // SAFETY: an element of Y in this task's rows of W, which only this task writes.
        unsafe {
            let y = self.y.0.add(row * self.w.rows + n);
            let old = if self.beta == 0.0 { 0.0 } else { self.beta * *y };
            *y = self.alpha * s.sum(s.add(a, b)) + old;
        }
    }
}
