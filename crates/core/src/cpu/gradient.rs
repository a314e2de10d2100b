//! The gradient of a LoRA factor: a product whose sums run over tokens and of which one side is
//! only a rank wide.
//!
//! Each element of the wide operand meets 16 rows at most: packing it would cost more than the
//! product. It is read where it lies, once, and the sums stay in the first cache.

use std::ops::Range;

use rayon::prelude::*;

use super::scratch::{Output, Scratch};
use super::simd::{Kernel, Simd, dispatch};
use super::tile::{Left, Multiply, Packed};

/// Ranks up to here.
const MAX_RANK: usize = 16;
/// Tokens that go through both row tiles while they are in the first cache.
const TOKENS: usize = 64;
/// Columns of a task.
const COLUMNS: usize = 96;
/// Multiplications below which a second thread costs more than it gives.
const MIN_WORK: usize = 200_000;

/// Whether this road is open: few rows, and whole vectors of every instruction set.
pub(super) fn fits(rank: usize, width: usize) -> bool {
    rank <= MAX_RANK && width > MAX_RANK && width.is_multiple_of(16)
}

/// C = α · A`[tokens, rank]`ᵀ · B`[tokens, width]` + β · C. C is `[rank, width]`, or `[width,
/// rank]` where `turned`.
pub(super) fn gradient(
    (tokens, rank, width): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    turned: bool,
    alpha: f32,
    beta: f32,
) {
    assert!(fits(rank, width), "a gradient of rank {rank}, {width} wide");
    assert_eq!((a.len(), b.len(), c.len()), (tokens * rank, tokens * width, rank * width), "gradient lengths");
    let c = Output(c.as_mut_ptr());
    let task = |index: usize| {
        let start = index * COLUMNS;
        dispatch(Task {
            tokens,
            rank,
            width,
            a,
            b,
            c,
            turned,
            alpha,
            beta,
            columns: start..width.min(start + COLUMNS),
        });
    };
    let tasks = width.div_ceil(COLUMNS);
    if tokens * rank * width < MIN_WORK {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

struct Task<'a> {
    tokens: usize,
    rank: usize,
    width: usize,
    a: &'a [f32],
    b: &'a [f32],
    c: Output,
    turned: bool,
    alpha: f32,
    beta: f32,
    /// Of B.
    columns: Range<usize>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.columns.len();
        let mut scratch = Scratch::take(MAX_RANK * COLUMNS);
        let sums = &mut scratch.floats()[..self.rank * columns];
        sums.fill(0.0);
        for token in (0..self.tokens).step_by(TOKENS) {
            let k = TOKENS.min(self.tokens - token);
            let b = &self.b[token * self.width + self.columns.start..];
            let product = Multiply {
                m: self.rank,
                columns,
                k,
                a: Left::Columns(self.a, self.rank).at(0, token),
                b: Packed::in_place(b, k, columns, self.width),
                c: sums.as_mut_ptr(),
                c_stride: columns,
                alpha: 1.0,
                beta: 1.0,
            };
            // SAFETY: `sums` holds `rank` rows of `columns`, and this task alone has it.
            unsafe { product.on(s) };
        }
        for (i, sums) in sums.chunks_exact(columns).enumerate() {
            for (&sum, j) in sums.iter().zip(self.columns.clone()) {
                let at = if self.turned { j * self.rank + i } else { i * self.width + j };
                // SAFETY: `at` is an element of C in `self.columns`, which no other task has.
                unsafe {
                    let c = self.c.0.add(at);
                    let old = if self.beta == 0.0 { 0.0 } else { self.beta * *c };
                    *c = self.alpha * sum + old;
                }
            }
        }
    }
}
