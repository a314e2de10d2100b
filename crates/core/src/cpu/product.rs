//! The f32 product: C = α · A·B + β · C in register tiles over packed panels of B.
//!
//! B, which may be a frozen weight in its file's format, is packed a block of `DEPTH` × a few panels at a time, where it
//! becomes f32 and takes the order the tile reads it in. A is read where it lies. One element of C is summed in the same
//! order whatever the shape of the rest and the number of threads: `DEPTH` terms at a time, ascending.

use std::ops::Range;

use rayon::prelude::*;

use super::pack::Right;
use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch};

/// Terms of a sum that one pass over a packed block adds: DEPTH rows of panel stream through the first cache.
const DEPTH: usize = 512;
/// Panels in a packed block.
const PANELS: usize = 2;
/// Rows of C in a task, at least, unless there are fewer.
const MIN_ROWS: usize = 64;
/// Multiplications below which a second thread costs more than it gives.
const MIN_WORK: usize = 200_000;

/// How A`[m, k]` lies in memory, with its stride.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Row i starts at i · stride.
    Rows(&'a [f32], usize),
    /// Column k starts at k · stride: A is given transposed.
    Columns(&'a [f32], usize),
}

/// C`[m, n]` = α · A`[m, k]` · B`[k, n]` + β · C, with row stride `c_stride`.
pub(super) fn product(
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    c: &mut [f32],
    c_stride: usize,
    alpha: f32,
    beta: f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        c_stride >= n && (m - 1) * c_stride + n <= c.len(),
        "C holds the product"
    );
    match a {
        Left::Rows(a, stride) => assert!(
            k == 0 || (m - 1) * stride + k <= a.len(),
            "A holds its rows"
        ),
        Left::Columns(a, stride) => assert!(
            k == 0 || (k - 1) * stride + m <= a.len(),
            "A holds its columns"
        ),
    }
    let width = dispatch(Width) * PANELS;
    let threads = if m * n * k < MIN_WORK {
        1
    } else {
        rayon::current_num_threads()
    };
    let columns = n.div_ceil(width);
    // A few tasks a thread, so that one that is late does not leave the others waiting.
    let row_tasks = if threads == 1 {
        1
    } else {
        (4 * threads).div_ceil(columns).min(m.div_ceil(MIN_ROWS))
    };
    let rows = m.div_ceil(row_tasks).next_multiple_of(8);
    let row_tasks = m.div_ceil(rows);
    let c = Output(c.as_mut_ptr());
    let task = |index: usize| {
        let (column, row) = (index / row_tasks * width, index % row_tasks * rows);
        let task = Task {
            m: row..(row + rows).min(m),
            n: column..(column + width).min(n),
            k,
            a,
            b,
            c,
            c_stride,
            alpha,
            beta,
        };
        dispatch(task);
    };
    match columns * row_tasks {
        1 => task(0),
        tasks if threads == 1 => (0..tasks).for_each(task),
        tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Columns of a full panel.
struct Width;

impl Kernel for Width {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::VECTORS * S::LANES
    }
}

struct Task<'a> {
    m: Range<usize>,
    n: Range<usize>,
    k: usize,
    a: Left<'a>,
    b: Right<'a>,
    c: Output,
    c_stride: usize,
    alpha: f32,
    beta: f32,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let depth = DEPTH.min(self.k.max(1));
        let panel = S::VECTORS * S::LANES;
        let tail = S::ROWS * depth;
        let mut scratch = Scratch::take(tail + PANELS * panel * depth);
        let (tail, packed) = scratch.floats().split_at_mut(tail);
        let mut beta = self.beta;
        for first in (0..self.k.max(1)).step_by(depth) {
            let k = first..(first + depth).min(self.k);
            for (i, column) in self.n.clone().step_by(panel).enumerate() {
                let n = column..(column + panel).min(self.n.end);
                let width = n.len().next_multiple_of(S::LANES);
                self.b.pack(
                    s,
                    k.clone(),
                    n,
                    width,
                    &mut packed[i * panel * depth..][..k.len() * width],
                );
            }
            self.block(s, k, beta, tail, packed, depth * panel);
            beta = 1.0;
        }
    }
}

impl Task<'_> {
    /// Adds the terms `k` to the task's part of C.
    #[inline(always)]
    fn block<S: Simd>(
        &self,
        s: S,
        k: Range<usize>,
        beta: f32,
        tail: &mut [f32],
        packed: &[f32],
        panel_len: usize,
    ) {
        let panel = S::VECTORS * S::LANES;
        for row in self.m.clone().step_by(S::ROWS) {
            let rows = S::ROWS.min(self.m.end - row);
            let a = match self.a {
                _ if rows < S::ROWS => {
                    copy_tail::<S>(self.a, row..row + rows, k.clone(), tail);
                    Left::Columns(&*tail, S::ROWS)
                }
                Left::Rows(a, stride) => Left::Rows(&a[row * stride + k.start..], stride),
                Left::Columns(a, stride) => Left::Columns(&a[k.start * stride + row..], stride),
            };
            for (i, column) in self.n.clone().step_by(panel).enumerate() {
                let cols = panel.min(self.n.end - column);
                let (left, a, a_stride) = match a {
                    Left::Rows(a, stride) => (false, a, stride),
                    Left::Columns(a, stride) => (true, a, stride),
                };
                let tile = Tile {
                    k: k.len(),
                    a: a.as_ptr(),
                    a_stride,
                    b: packed[i * panel_len..].as_ptr(),
                    // SAFETY: row and column are in C, as `product` asserted.
                    c: unsafe { self.c.0.add(row * self.c_stride + column) },
                    c_stride: self.c_stride,
                    rows,
                    cols,
                    alpha: self.alpha,
                    beta,
                };
                // SAFETY: A has S::ROWS rows here (the tail was copied to scratch) and k.len() columns; the panel was
                // packed with whole vectors; C's tile is this task's alone.
                unsafe {
                    match (S::ROWS, cols.div_ceil(S::LANES), left) {
                        (8, 3, false) => tile.run::<S, 8, 3, false>(s),
                        (8, 2, false) => tile.run::<S, 8, 2, false>(s),
                        (8, _, false) => tile.run::<S, 8, 1, false>(s),
                        (8, 3, true) => tile.run::<S, 8, 3, true>(s),
                        (8, 2, true) => tile.run::<S, 8, 2, true>(s),
                        (8, _, true) => tile.run::<S, 8, 1, true>(s),
                        (_, 3, false) => tile.run::<S, 4, 3, false>(s),
                        (_, 2, false) => tile.run::<S, 4, 2, false>(s),
                        (_, _, false) => tile.run::<S, 4, 1, false>(s),
                        (_, 3, true) => tile.run::<S, 4, 3, true>(s),
                        (_, 2, true) => tile.run::<S, 4, 2, true>(s),
                        (_, _, true) => tile.run::<S, 4, 1, true>(s),
                    }
                }
            }
        }
    }
}

/// The last rows of A, fewer than a tile has, as columns of S::ROWS with zeros below.
#[inline(always)]
fn copy_tail<S: Simd>(a: Left<'_>, rows: Range<usize>, k: Range<usize>, tail: &mut [f32]) {
    for (column, k) in tail.chunks_exact_mut(S::ROWS).zip(k) {
        for (i, x) in column.iter_mut().enumerate() {
            let row = rows.start + i;
            *x = match a {
                _ if row >= rows.end => 0.0,
                Left::Rows(a, stride) => a[row * stride + k],
                Left::Columns(a, stride) => a[k * stride + row],
            };
        }
    }
}

/// One tile of C, of which `rows` and `cols` count.
struct Tile {
    k: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    rows: usize,
    cols: usize,
    alpha: f32,
    beta: f32,
}

impl Tile {
    /// # Safety
    /// A readable as R rows (COLUMNS: as k columns of R), B as k rows of V vectors, C writable for rows and cols.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize, const COLUMNS: bool>(&self, s: S) {
        let mut sums = [[s.splat(0.0); V]; R];
        let mut b = self.b;
        for k in 0..self.k {
            let mut right = [s.splat(0.0); V];
            for (j, right) in right.iter_mut().enumerate() {
                // SAFETY: row k of the panel.
                *right = unsafe { s.load(b.add(j * S::LANES)) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let at = if COLUMNS {
                    k * self.a_stride + i
                } else {
                    i * self.a_stride + k
                };
                // SAFETY: row i, column k of A.
                let left = s.splat(unsafe { *self.a.add(at) });
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = s.mul_add(left, right, *sum);
                }
            }
            // SAFETY: at most one past the panel.
            b = unsafe { b.add(V * S::LANES) };
        }
        let (alpha, beta) = (s.splat(self.alpha), s.splat(self.beta));
        for (i, sums) in sums.iter().enumerate().take(self.rows) {
            for (j, &sum) in sums.iter().enumerate() {
                let mut y = s.mul(alpha, sum);
                // SAFETY: rows and cols of C are writable, and only they are touched.
                unsafe {
                    let c = self.c.add(i * self.c_stride + j * S::LANES);
                    let cols = self.cols - j * S::LANES;
                    if cols >= S::LANES {
                        if self.beta != 0.0 {
                            y = s.mul_add(beta, s.load(c), y);
                        }
                        s.store(c, y);
                    } else {
                        if self.beta != 0.0 {
                            y = s.mul_add(beta, s.load_first(c, cols), y);
                        }
                        s.store_first(c, y, cols);
                    }
                }
            }
        }
    }
}
