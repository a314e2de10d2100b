//! The f32 product: C = α · A·B + β · C in register tiles over packed panels of B.
//!
//! B, which may be a frozen weight in its file's format, is packed a block of `DEPTH` × `COLUMNS`
//! at a time, where it becomes f32 and takes the order the tile reads it in. A is read where it
//! lies. One element of C is summed in the same order whatever the shape of the rest and the number
//! of threads: [`depth`] terms at a time, ascending.
//!
//! Where there is a matrix unit, products that [`split::fits`] are made there, in an order of its
//! own.

use std::ops::Range;

use bft_formats::weights::UNIT;
use rayon::prelude::*;

use super::pack::Right;
use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch, matrix_unit};
use super::split;
use super::tile::{Left, Multiply, Pack, packed_len};

/// Terms of a sum that one pass over a packed block adds, at most: so that the block stays in the
/// second cache.
const DEPTH: usize = 640;
/// What a pass's terms are a multiple of: whole units of every format.
const STEP: usize = 64;
const _: () = assert!(STEP.is_multiple_of(UNIT) && DEPTH.is_multiple_of(STEP));
/// Columns in a packed block, at most, which stays in the second cache.
const COLUMNS: usize = 192;
/// Columns of which blocks are made: whole panels of every instruction set.
const PANEL: usize = 48;
/// Rows of C in a task, at least, unless there are fewer.
const MIN_ROWS: usize = 64;
/// Multiplications below which a second thread costs more than it gives.
const MIN_WORK: usize = 200_000;

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
    a.check(m, k);
    assert!(c_stride >= n && (m - 1) * c_stride + n <= c.len(), "C holds the product");
    let c = Output(c.as_mut_ptr());
    if let Some(unit) = matrix_unit()
        && split::fits(m, n, k)
    {
        // SAFETY: asserted above.
        return unsafe { split::product(unit, (m, n, k), a, b, c, c_stride, alpha, beta) };
    }
    let threads = if m * n * k < MIN_WORK { 1 } else { rayon::current_num_threads() };
    // Enough tasks that a thread that is late does not leave the others waiting, by columns first:
    // each range of rows packs the block anew.
    let tasks = if threads == 1 { 1 } else { 3 * threads };
    let panels = n.div_ceil(PANEL).div_ceil(tasks);
    let columns = PANEL * panels.clamp(1, COLUMNS / PANEL);
    let blocks = n.div_ceil(columns);
    let row_tasks = (tasks / blocks).clamp(1, m.div_ceil(MIN_ROWS));
    let rows = m.div_ceil(row_tasks).next_multiple_of(8);
    let row_tasks = m.div_ceil(rows);
    let task = |index: usize| {
        let (column, row) = (index / row_tasks * columns, index % row_tasks * rows);
        let (m, n) = (row..(row + rows).min(m), column..(column + columns).min(n));
        dispatch(Task { m, n, k, a, b, c, c_stride, alpha, beta });
    };
    match blocks * row_tasks {
        1 => task(0),
        tasks if threads == 1 => (0..tasks).for_each(task),
        tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
    }
}

/// Terms of each pass: as evenly as [`STEP`] allows, since each pass reads and writes C.
fn depth(k: usize) -> usize {
    let passes = k.div_ceil(DEPTH).max(1);
    k.div_ceil(passes).next_multiple_of(STEP).clamp(1, DEPTH)
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
        let depth = depth(self.k);
        let mut scratch = Scratch::take(packed_len(depth.min(self.k), self.n.len()));
        let mut beta = self.beta;
        for first in (0..self.k.max(1)).step_by(depth) {
            let k = first..(first + depth).min(self.k);
            let b = Pack { b: self.b, k: k.clone(), n: self.n.clone(), out: scratch.floats() }.run(s);
            // SAFETY: `product` asserted that C holds these rows and columns, which are this task's
            // alone.
            unsafe {
                Multiply {
                    m: self.m.len(),
                    columns: self.n.len(),
                    k: k.len(),
                    a: self.a.at(self.m.start, k.start),
                    b,
                    c: self.c.0.add(self.m.start * self.c_stride + self.n.start),
                    c_stride: self.c_stride,
                    alpha: self.alpha,
                    beta,
                }
                .on(s);
            }
            beta = 1.0;
        }
    }
}
