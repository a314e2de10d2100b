//! Y = α · X·Wᵀ + β · Y for a few rows of X, as in generation: bounded by reading W once.
//!
//! Rows of W become f32 once for all rows of X: in registers for one row of X, else a few at a time
//! in the first cache. An element of Y is summed in the same order however many rows X has.

use std::ops::Range;

use bft_formats::weights::UNIT;

use super::dequantize::{Sink, dequantize, for_each_vector};
use super::math::get;
use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::team;
use super::weight::WeightRef;

/// Rows of X up to which this is taken: where it is faster than packed panels, and for as many texts
/// as are usually written together.
pub const MAX_ROWS: usize = 16;
/// Rows of W that are f32 at a time.
const DENSE: usize = 8;
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
    let task = |rows: Range<usize>| dispatch(Task { x, w, y, m, alpha, beta, stride: w.dtype.row_bytes(w.cols), rows });
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
    /// Bytes from row to row of W.
    stride: usize,
    rows: Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.w.cols;
        self.fetch(s, 0, AHEAD);
        if self.m == 1 {
            let rows = self.rows.clone();
            return for_each_vector(s, self.w, rows, 0..cols, &mut Dots(&self));
        }
        let mut scratch = Scratch::take(DENSE * cols);
        for first in self.rows.clone().step_by(DENSE) {
            let rows = first..self.rows.end.min(first + DENSE);
            rows.clone().for_each(|n| self.fetch_ahead(s, n));
            let dense = &mut scratch.floats()[..rows.len() * cols];
            dequantize(s, self.w, rows, 0..cols, dense, cols);
            self.block(s, first, dense);
        }
    }
}

/// The products of the one row of X with rows of W.
struct Dots<'t, 'a>(&'t Task<'a>);

/// The row of X and its two sums with a row of W.
struct Dot<'a, V> {
    x: &'a [f32],
    sums: [V; 2],
}

impl<'a, S: Simd> Sink<S> for Dots<'_, 'a> {
    type Row = Dot<'a, S::V>;

    #[inline(always)]
    fn begin(&mut self, s: S) -> Self::Row {
        Dot { x: self.0.x, sums: [s.splat(0.0); 2] }
    }

    #[inline(always)]
    fn take(s: S, dot: &mut Self::Row, k: usize, len: usize, w: S::V) {
        let sum = &mut dot.sums[k / HALF % 2];
        *sum = s.mul_add(get(s, dot.x, k, len), w, *sum);
    }

    #[inline(always)]
    fn end(&mut self, s: S, row: usize, dot: Self::Row) {
        self.0.store(s, 0, row, dot.sums);
        self.0.fetch_ahead(s, row);
    }
}

/// Elements that go to the one sum before as many go to the other, so that one addition need not
/// wait for the last: half a unit, which every instruction set meets in ascending order.
const HALF: usize = UNIT / 2;

impl Task<'_> {
    /// Asks for bytes of the task's rows of W.
    #[inline(always)]
    fn fetch<S: Simd>(&self, s: S, from: usize, to: usize) {
        let all = &self.w.data[self.rows.start * self.stride..self.rows.end * self.stride];
        let lines = all.get(from..to.min(all.len())).unwrap_or_default();
        for line in lines.chunks(LINE) {
            s.prefetch(line.as_ptr());
        }
    }

    /// Asks for as many bytes as row n of W has, ahead of it.
    #[inline(always)]
    fn fetch_ahead<S: Simd>(&self, s: S, n: usize) {
        let at = (n - self.rows.start) * self.stride + AHEAD;
        self.fetch(s, at, at + self.stride);
    }

    /// All rows of X against rows of W from n on, dense in `w`.
    #[inline(always)]
    fn block<S: Simd>(&self, s: S, n: usize, w: &[f32]) {
        let cols = self.w.cols;
        let mut row = 0;
        while row < self.m {
            // As many sums as there are registers for; each row of X is loaded for two of W.
            let rows = match (self.m - row, S::LANES) {
                (4.., 16) => 4,
                (3 | 5.., 8 | 16) => 3,
                (2.., _) => 2,
                _ => 1,
            };
            for (i, w) in w.chunks(2 * cols).enumerate() {
                let (n, two) = (n + 2 * i, w.len() == 2 * cols);
                match (rows, two) {
                    (4, true) => self.dots::<S, 4, 2>(s, row, n, w),
                    (3, true) => self.dots::<S, 3, 2>(s, row, n, w),
                    (2, true) => self.dots::<S, 2, 2>(s, row, n, w),
                    (_, true) => self.dots::<S, 1, 2>(s, row, n, w),
                    (4, false) => self.dots::<S, 4, 1>(s, row, n, w),
                    (3, false) => self.dots::<S, 3, 1>(s, row, n, w),
                    (2, false) => self.dots::<S, 2, 1>(s, row, n, w),
                    (_, false) => self.dots::<S, 1, 1>(s, row, n, w),
                }
            }
            row += rows;
        }
    }

    /// M rows of X from `row` on, against N rows of W from n on, which `w` begins with.
    #[inline(always)]
    fn dots<S: Simd, const M: usize, const N: usize>(&self, s: S, row: usize, n: usize, w: &[f32]) {
        let cols = self.w.cols;
        let (x, w) = (&self.x[row * cols..(row + M) * cols], &w[..N * cols]);
        let (mut low, mut high) = ([[s.splat(0.0); N]; M], [[s.splat(0.0); N]; M]);
        let whole = cols / UNIT * UNIT;
        for k in (0..whole).step_by(UNIT) {
            add(s, &mut low, (x, w, cols), k, HALF);
            add(s, &mut high, (x, w, cols), k + HALF, HALF);
        }
        add(s, &mut low, (x, w, cols), whole, HALF.min(cols - whole));
        add(s, &mut high, (x, w, cols), whole + HALF, (cols - whole).saturating_sub(HALF));
        for (i, (low, high)) in low.into_iter().zip(high).enumerate() {
            for (j, (low, high)) in low.into_iter().zip(high).enumerate() {
                self.store(s, row + i, n + j, [low, high]);
            }
        }
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

/// Adds the products of `len` elements from k on, of each row of x and each of w, which have `cols`
/// elements.
#[inline(always)]
fn add<S: Simd, const M: usize, const N: usize>(
    s: S,
    sums: &mut [[S::V; N]; M],
    (x, w, cols): (&[f32], &[f32], usize),
    k: usize,
    len: usize,
) {
    for i in (0..len).step_by(S::LANES) {
        let n = S::LANES.min(len - i);
        let mut ws = [s.splat(0.0); N];
        for (j, of_row) in ws.iter_mut().enumerate() {
            *of_row = get(s, w, j * cols + k + i, n);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = get(s, x, row * cols + k + i, n);
            for (sum, w) in sums.iter_mut().zip(ws) {
                *sum = s.mul_add(x, w, *sum);
            }
        }
    }
}
