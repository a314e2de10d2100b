//! The f32 product on a matrix unit that multiplies bf16: each factor is the sum of three of them,
//! exactly.
//!
//! x = x₁ + x₂ + x₃, where x₁ is x rounded to bf16, x₂ what that leaves out, rounded, and x₃ the
//! rest: at most 2⁻⁸ and 2⁻¹⁷ of x. Of the nine products of parts x₂·w₃, x₃·w₂ and x₃·w₃ are left
//! out, together about 2⁻²⁴ of x·w at most, which is what rounding a product to f32 may take. So
//! the result is as good as f32's, for six times the work of bf16's. Less good are only factors and
//! products below 1e-31, whose last parts the unit takes for zero, and what bf16 rounds to
//! infinity, from 3.39e38 on: that and infinity itself become NaN.
//!
//! The longer operand is divided among the tasks, each of which packs its lines in parts for
//! itself; the shorter one is packed for all of them first. On this road one element of C is summed
//! in the same order whatever stands beside it and whoever packs it.

mod pack;

use std::ops::Range;

use rayon::prelude::*;

use pack::chunks;
pub(super) use pack::{Operand, Pack};

use super::pack::Right;
use super::scratch::{Output, Scratch};
use super::simd::panel::{FETCHED, LINES, STEP, SUMS, Sums, TERMS, TILE};
use super::simd::{Kernel, MatrixUnit, Simd, Tiles, dispatch};
use super::tile::{Left, merge_row};

/// Terms of a block of either operand, at most.
const DEPTH: usize = 768;
/// Lines of the longer operand that a task packs for itself, at most: they stay in its second
/// cache.
const OWN: usize = 256;
/// Elements of the shorter operand that are packed at a time for all tasks, at most: 3.4 MiB of
/// parts.
const SHARED: usize = 768 * DEPTH;
/// Rows, columns and terms below which packing costs more than it gives.
const MIN: usize = 64;

/// Whether this is the faster road where there is a matrix unit.
pub(super) fn fits(m: usize, n: usize, k: usize) -> bool {
    m.min(n).min(k) >= MIN
}

/// C`[m, n]` = α · A`[m, k]` · B`[k, n]` + β · C, with row stride `c_stride`.
/// # Safety
/// C holds such a matrix, which is this call's alone.
pub(super) unsafe fn product(
    unit: MatrixUnit,
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    c: Output,
    c_stride: usize,
    alpha: f32,
    beta: f32,
) {
    let own_rows = m >= n;
    let (a, b) = (Operand::left(a, m, k), Operand::right(b));
    let (own, shared) = if own_rows { (a, b) } else { (b, a) };
    let (own_len, shared_len) = (m.max(n), m.min(n));
    let depth = even(k, DEPTH, TERMS);
    let block = even(shared_len, SHARED / depth, LINES);
    let panel = depth / TERMS * STEP;
    // Another task over the same own lines packs them again.
    let threads = rayon::current_num_threads();
    let own_tasks = own_len.div_ceil(OWN).next_multiple_of(threads);
    let own_lines = even(own_len, own_len.div_ceil(own_tasks), LINES);
    let shared_tasks = threads.div_ceil(own_len.div_ceil(own_lines));
    let shared_lines = even(block, block.div_ceil(shared_tasks), LINES);
    let mut scratch = Scratch::take(block / LINES * panel);
    let space = scratch.floats();
    for lines in chunks(0..shared_len, block) {
        for terms in chunks(0..k, depth) {
            let panels: Vec<_> = chunks(lines.clone(), LINES).zip(space.chunks_exact_mut(panel)).collect();
            panels.into_par_iter().for_each(|(lines, out)| {
                dispatch(Pack { operand: shared, lines, terms: terms.clone(), out });
            });
            let tasks: Vec<_> = chunks(0..own_len, own_lines)
                .flat_map(|own| chunks(lines.clone(), shared_lines).map(move |shared| (own.clone(), shared)))
                .collect();
            tasks.into_par_iter().with_max_len(1).for_each(|(own_lines, shared_lines)| {
                dispatch(Task {
                    unit,
                    own,
                    own_rows,
                    shared: &space[(shared_lines.start - lines.start) / LINES * panel..],
                    own_lines,
                    shared_lines,
                    terms: terms.clone(),
                    panel,
                    c,
                    c_stride,
                    alpha,
                    beta: if terms.start == 0 { beta } else { 1.0 },
                });
            });
        }
    }
}

/// The length of pieces of `len` that are as even as multiples of `unit` can be and no longer than
/// `most`, or than a unit.
fn even(len: usize, most: usize, unit: usize) -> usize {
    let most = most.next_multiple_of(unit);
    len.div_ceil(len.div_ceil(most)).next_multiple_of(unit)
}

struct Task<'a> {
    unit: MatrixUnit,
    /// The operand of which this task packs some lines.
    own: Operand<'a>,
    /// Whether that is A.
    own_rows: bool,
    own_lines: Range<usize>,
    /// Panels of the other operand, which are packed.
    shared: &'a [f32],
    shared_lines: Range<usize>,
    terms: Range<usize>,
    /// Words of a panel.
    panel: usize,
    c: Output,
    c_stride: usize,
    alpha: f32,
    beta: f32,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scratch = Scratch::take(self.own_lines.len().div_ceil(LINES) * self.panel);
        let panels = scratch.floats();
        let lines = chunks(self.own_lines.clone(), LINES);
        for (lines, out) in lines.zip(panels.chunks_exact_mut(self.panel)) {
            let pack = Pack { operand: self.own, lines, terms: self.terms.clone(), out };
            pack.run(s);
        }
        // SAFETY: packing, which is done, takes none, and what follows does no other task.
        let tiles = unsafe { self.unit.tiles() };
        let mut sums = Sums([0.0; SUMS]);
        let shared = chunks(self.shared_lines.clone(), LINES);
        for (shared_lines, shared) in shared.zip(self.shared.chunks_exact(self.panel)) {
            let mut ahead = shared.as_ptr().wrapping_add(self.panel);
            let own = chunks(self.own_lines.clone(), LINES);
            for own in own.zip(panels.chunks_exact(self.panel)) {
                let shared = (shared_lines.clone(), shared);
                let (a, b) = if self.own_rows { (own, shared) } else { (shared, own) };
                self.panels(s, &tiles, a, b, ahead, &mut sums);
                ahead = ahead.wrapping_add(self.steps() * FETCHED);
            }
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn steps(&self) -> usize {
        self.terms.len().div_ceil(TERMS)
    }

    /// A panel of A times one of B, each with its lines. What `sums` holds does not matter.
    #[inline(always)]
    fn panels<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        (rows, a): (Range<usize>, &[f32]),
        (columns, b): (Range<usize>, &[f32]),
        ahead: *const f32,
        sums: &mut Sums,
    ) {
        let steps = self.steps();
        assert!(a.len() >= steps * STEP && b.len() >= steps * STEP, "panels of {steps} steps");
        // SAFETY: both hold as many steps.
        unsafe { tiles.multiply(a.as_ptr(), b.as_ptr(), ahead, steps, sums) };
        for (j, columns) in chunks(columns, 16).enumerate() {
            for (i, row) in rows.clone().enumerate() {
                // SAFETY: a row of a tile, and a row of C's and its columns, which are this task's
                // alone.
                unsafe {
                    let sums = sums.0.as_ptr().add((i / 16 * 2 + j) * TILE + i % 16 * 16);
                    let c = self.c.0.add(row * self.c_stride + columns.start);
                    merge_row(s, sums, c, columns.len(), self.alpha, self.beta);
                }
            }
        }
    }
}
