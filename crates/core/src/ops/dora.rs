//! DoRA's lengths of rows (arXiv 2402.09353): an adapted weight's row i, W + s·B·A, is brought
//! to the length m[i] that is trained, from the length n[i] that it has.
//!
//! With W `[out, in]`, A `[r, in]`, B `[out, r]`, v, y, dv, dy `[N, out]`, m, n `[out]`:
//! - squares: ‖W[i]‖²
//! - inverse norm: 1/n[i], n[i]² = ‖W[i]‖² + 2s·B[i]·(A·Wᵀ)[·, i] + s²·B[i]·(A·Aᵀ)·B[i]ᵀ; 0 for a
//!   row of zeros, whose product with anything is 0
//! - forward: y = (α·m/n + β)·v, or y += it
//! - backward: dv = (α·m/n + β)·dy, the forward again; dm[i] = α·Σ dy·v over the N rows / n[i].
//!   n has no gradient: the paper holds it fixed, and so does PEFT.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        /// Rows of what is read.
        rows: u32,
        /// out, or in for the squares.
        cols: u32,
        rank: u32,
        /// s of the inverse norm, else α.
        factor: f32,
        /// β
        shift: f32,
        /// 1 adds to what is there.
        accumulate: u32,
    }
}

kernels! { KERNELS of Params:
    SQUARES = "dora"::squares(x: Read, row_squares: ReadWrite) => squares_cpu;
    INVERSE_NORM = "dora"::inverse_norm(
        b: Read, aw: Read, aa: Read, weight_squares: Read, norms: ReadWrite,
    ) => inverse_norm_cpu;
    SCALE_ROWS = "dora"::scale_rows(magnitude: Read, inverse: Read, v: Read, result: ReadWrite) => scale_rows_cpu;
    MAGNITUDE_GRADIENT = "dora"::magnitude_gradient(
        dy: Read, inverse: Read, v: Read, result: ReadWrite,
    ) => magnitude_gradient_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "dora", kernels: KERNELS, variants: &[&[]], cases };

/// result `[rows]` = sums of squares of x `[rows, cols]`.
pub fn squares(rec: &mut Recording, x: &View, result: &View, cols: usize) {
    let rows = result.len();
    let params = Params { rows: rows as u32, cols: cols as u32, rank: 0, factor: 1.0, shift: 0.0, accumulate: 0 };
    rec.dispatch(&SQUARES, &params, [x, result], grid_1d(rows));
}

/// What the norms of an adapted weight's rows are made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// B `[out, r]`
    pub b: &'a View,
    /// A·Wᵀ `[r, out]`
    pub aw: &'a View,
    /// A·Aᵀ `[r, r]`
    pub aa: &'a View,
    /// ‖W‖² of each row `[out]`
    pub weight_squares: &'a View,
}

/// inverse `[out]` = 1/‖W + scaling·B·A‖ of each row.
pub fn inverse_norm(rec: &mut Recording, parts: Parts<'_>, inverse: &View, scaling: f32) {
    let out = inverse.len();
    let rank = (parts.b.len() / out.max(1)) as u32;
    let params = Params { rows: out as u32, cols: out as u32, rank, factor: scaling, shift: 0.0, accumulate: 0 };
    rec.dispatch(&INVERSE_NORM, &params, [parts.b, parts.aw, parts.aa, parts.weight_squares, inverse], groups(out));
}

/// m and 1/n of a map's rows, `[out]` each.
#[derive(Debug, Clone)]
pub struct Lengths {
    /// m, which is trained.
    pub magnitude: View,
    /// 1/n
    pub inverse: View,
}

/// y `[N, out]` = (factor·m/n + shift)·v `[N, out]`, or y += it where `accumulate`.
pub fn scale_rows(
    rec: &mut Recording,
    lengths: &Lengths,
    v: &View,
    y: &View,
    (factor, shift): (f32, f32),
    accumulate: bool,
) {
    let cols = lengths.inverse.len();
    let (rows, accumulate) = ((v.len() / cols.max(1)) as u32, accumulate.into());
    let params = Params { rows, cols: cols as u32, rank: 0, factor, shift, accumulate };
    rec.dispatch(&SCALE_ROWS, &params, [&lengths.magnitude, &lengths.inverse, v, y], groups(v.len()));
}

/// dm `[out]` = Σ dy·v over the rows of both `[N, out]`, times 1/n, or dm += it where `accumulate`.
pub fn magnitude_gradient(rec: &mut Recording, dy: &View, v: &View, inverse: &View, dm: &View, accumulate: bool) {
    let cols = inverse.len();
    let (rows, accumulate) = ((v.len() / cols.max(1)) as u32, accumulate.into());
    let params = Params { rows, cols: cols as u32, rank: 0, factor: 1.0, shift: 0.0, accumulate };
    rec.dispatch(&MAGNITUDE_GRADIENT, &params, [dy, inverse, v, dm], groups(cols));
}

fn squares_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [x, result] = call.args();
    let rows = x.read().par_chunks_exact(params.cols as usize);
    result.write().par_iter_mut().zip(rows).with_min_len(16).for_each(|(result, x)| *result = cpu::dot(x, x));
}

fn inverse_norm_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [b, aw, aa, weight_squares, result] = call.args();
    let (rank, out, s) = (params.rank as usize, params.rows as usize, T::from_f32(params.factor));
    let (aw, aa) = (aw.read(), aa.read());
    let rows = b.read().par_chunks_exact(rank).zip(weight_squares.read());
    result.write().par_iter_mut().zip(rows).enumerate().with_min_len(16).for_each(|(i, (result, (b, square)))| {
        let mut sum = *square;
        for (k, value) in b.iter().enumerate() {
            let of_pair = cpu::dot(&aa[k * rank..(k + 1) * rank], b);
            sum += *value * s * (aw[k * out + i] + aw[k * out + i] + s * of_pair);
        }
        *result = if sum > T::ZERO { T::ONE / sum.sqrt() } else { T::ZERO };
    });
}

fn scale_rows_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [magnitude, inverse, v, y] = call.args();
    let (magnitude, inverse, cols) = (magnitude.read(), inverse.read(), params.cols as usize);
    let (factor, shift) = (T::from_f32(params.factor), T::from_f32(params.shift));
    let rows = y.write().par_chunks_exact_mut(cols).zip(v.read().par_chunks_exact(cols));
    rows.with_min_len(4).for_each(|(y, v)| {
        for (((y, v), m), inverse) in y.iter_mut().zip(v).zip(magnitude).zip(inverse) {
            let scaled = (factor * *m * *inverse + shift) * *v;
            *y = if params.accumulate == 1 { *y + scaled } else { scaled };
        }
    });
}

/// Tokens whose products are summed before they join the sum of all: one running sum of f32 over a
/// long batch loses digits.
const TOKENS: usize = 64;
/// Columns that a thread sums.
const COLUMNS: usize = 64;

fn magnitude_gradient_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [dy, inverse, v, result] = call.args();
    let (dy, v, inverse, cols) = (dy.read(), v.read(), inverse.read(), params.cols as usize);
    result.write().par_chunks_mut(COLUMNS).zip(inverse.par_chunks(COLUMNS)).enumerate().for_each(
        |(chunk, (result, inverse))| {
            let first = chunk * COLUMNS;
            let mut sums = [T::ZERO; COLUMNS];
            for tokens in (0..params.rows as usize).step_by(TOKENS) {
                let mut part = [T::ZERO; COLUMNS];
                for token in tokens..(tokens + TOKENS).min(params.rows as usize) {
                    let at = token * cols + first;
                    let (dy, v) = (&dy[at..at + result.len()], &v[at..at + result.len()]);
                    part.iter_mut().zip(dy).zip(v).for_each(|((part, dy), v)| *part += *dy * *v);
                }
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            for ((result, sum), inverse) in result.iter_mut().zip(sums).zip(inverse) {
                let gradient = sum * *inverse;
                *result = if params.accumulate == 1 { *result + gradient } else { gradient };
            }
        },
    );
}

fn cases() -> Vec<Case> {
    let lengths =
        |t: &super::case::Tensors| Lengths { magnitude: t.view("m").clone(), inverse: t.view("inverse").clone() };
    let squares_of = |rows: usize, cols: usize| {
        Case::new(format!("squares of {rows} rows of {cols}"), move |rec, t| {
            squares(rec, t.view("x"), t.view("result"), cols);
        })
        .input("x", &[rows, cols], Fill::Random(2.0))
        .output("result", &[rows])
    };
    let norm_of = |out: usize, rank: usize| {
        Case::new(format!("norms of {out} rows, rank {rank}"), |rec, t| {
            let parts = Parts { b: t.view("b"), aw: t.view("aw"), aa: t.view("aa"), weight_squares: t.view("squares") };
            inverse_norm(rec, parts, t.view("inverse"), 0.5);
        })
        .input("b", &[out, rank], Fill::Random(0.3))
        .input("aw", &[rank, out], Fill::Random(1.0))
        .input("aa", &[rank, rank], Fill::Between(0.0, 0.1))
        .input("squares", &[out], Fill::Between(2.0 * rank as f32, 4.0 * rank as f32))
        .output("inverse", &[out])
    };
    let rows_of = |tokens: usize, out: usize, by: (f32, f32)| {
        Case::new(format!("{tokens} tokens, {out} rows, {by:?}"), move |rec, t| {
            scale_rows(rec, &lengths(t), t.view("v"), t.view("y"), by, false);
        })
        .input("m", &[out], Fill::Between(0.5, 2.0))
        .input("inverse", &[out], Fill::Between(0.5, 2.0))
        .input("v", &[tokens, out], Fill::Random(1.0))
        .output("y", &[tokens, out])
        .upstream("y", "dy", &[tokens, out])
        .gradient("v", "dv", &[tokens, out])
        .gradient("m", "dm", &[out])
        .backward(move |rec, t| {
            scale_rows(rec, &lengths(t), t.view("dy"), t.view("dv"), by, false);
            magnitude_gradient(rec, t.view("dy"), t.view("v"), t.view("inverse"), t.view("dm"), false);
        })
    };
    let adding = Case::new("added to what is there", move |rec, t| {
        scale_rows(rec, &lengths(t), t.view("v"), t.view("y"), (0.0, -1.0), true);
        magnitude_gradient(rec, t.view("dy"), t.view("v"), t.view("inverse"), t.view("dm"), true);
    })
    .input("m", &[68], Fill::Random(1.0))
    .input("inverse", &[68], Fill::Between(0.5, 2.0))
    .input("v", &[9, 68], Fill::Random(1.0))
    .input("y", &[9, 68], Fill::Random(1.0))
    .input("dy", &[9, 68], Fill::Random(1.0))
    .input("dm", &[68], Fill::Random(1.0))
    .updates("y")
    .updates("dm");
    let zeros = Case::new("a row of zeros", |rec, t| {
        let parts = Parts { b: t.view("b"), aw: t.view("aw"), aa: t.view("aa"), weight_squares: t.view("squares") };
        inverse_norm(rec, parts, t.view("inverse"), 2.0);
    })
    .input("b", &[4, 4], Fill::Values(vec![0.0; 16]))
    .input("aw", &[4, 4], Fill::Random(1.0))
    .input("aa", &[4, 4], Fill::Random(1.0))
    .input("squares", &[4], Fill::Values(vec![4.0, 0.0, 1.0, 0.0]))
    .output("inverse", &[4]);
    vec![
        squares_of(1, 1),
        squares_of(3, 65),
        squares_of(65, 576),
        norm_of(1, 4),
        norm_of(65, 8),
        norm_of(576, 16),
        rows_of(1, 1, (1.0, 0.0)),
        rows_of(3, 65, (1.0, -1.0)),
        rows_of(257, 64, (1.0, 0.0)),
        rows_of(70, 576, (1.0, 0.0)),
        adding,
        zeros,
    ]
}
