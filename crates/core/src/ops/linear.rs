//! Products of a linear layer, with a frozen weight in its file's format or a dense one (LoRA's A
//! and B).
//!
//! With x, dx `[M, K]`, y, dy `[M, N]` and w `[N, K]` (M tokens, N outputs, K inputs), α and β ∈
//! {0, 1}:
//! - forward: y = α · x·wᵀ + β · y
//! - backward: dx = α · dy·w + β · dx
//! - gradient of a dense w: dw = α · dyᵀ·x + β · dw
//!
//! With β = 0 the result is written without being read. N and K are multiples of 4, K of 32 for
//! block formats. A weight is decoded inside the product, on every device; no dense copy of it is
//! ever made.

use bft_formats::DType;

use super::case::{Case, Fill};
use super::{Op, WEIGHT_VARIANTS, weight_defines};
use crate::cpu::{WeightRef, gemm_nn, gemm_nt, gemm_tn, linear_nn, linear_nt};
use crate::device::{
    Arg, Call, Choice, Choices, CpuMatrix, Kernel, Matrix, Recording, Tier, View, grid_1d, kernels, params,
};
use crate::real::Real;

params! {
    struct Params {
        /// M, or the length of the sums of [`gradient`].
        tokens: u32,
        /// N, or the rows of [`gradient`]'s result.
        rows: u32,
        /// K, or the columns of [`gradient`]'s result.
        cols: u32,
        alpha: f32,
        beta: f32,
    }
}

impl Params {
    fn new(tokens: usize, rows: usize, cols: usize, alpha: f32, accumulate: bool) -> Self {
        Self {
            tokens: tokens as u32,
            rows: rows as u32,
            cols: cols as u32,
            alpha,
            beta: if accumulate { 1.0 } else { 0.0 },
        }
    }
}

// Without a suffix: in registers alone, for software drivers. Tile: in workgroup memory, for real
// cards. Narrow: the same where a side of the result is short. Vector: for few tokens, on every
// device. Matrix: where subgroups multiply matrices.
kernels! { KERNELS of Params:
    FORWARD = "linear_nt"::product(x: Read, w: Matrix, result: ReadWrite) => forward_cpu;
    FORWARD_TILE = "linear_nt_tile"::product(x: Read, w: Matrix, result: ReadWrite) => forward_cpu;
    FORWARD_NARROW = "linear_nt_narrow"::product(x: Read, w: Matrix, result: ReadWrite) => forward_cpu;
    FORWARD_VECTOR = "linear_nt_vector"::product(x: Read, w: Matrix, result: ReadWrite) => forward_cpu;
    FORWARD_MATRIX = "linear_nt_matrix"::product(x: Read, w: Matrix, result: ReadWrite) => forward_cpu;
    BACKWARD = "linear_nn"::product(dy: Read, w: Matrix, result: ReadWrite) => backward_cpu;
    BACKWARD_TILE = "linear_nn_tile"::product(dy: Read, w: Matrix, result: ReadWrite) => backward_cpu;
    BACKWARD_NARROW = "linear_nn_narrow"::product(dy: Read, w: Matrix, result: ReadWrite) => backward_cpu;
    BACKWARD_MATRIX = "linear_nn_matrix"::product(dy: Read, w: Matrix, result: ReadWrite) => backward_cpu;
}

kernels! { GRADIENT_KERNELS of Params:
    GRADIENT = "linear_tn"::product(a: Read, b: Read, result: ReadWrite) => gradient_cpu;
    GRADIENT_NARROW = "linear_tn_narrow"::product(a: Read, b: Read, result: ReadWrite) => gradient_cpu;
}

/// Up to here a weight is read for each token anew, eight lanes a row: beyond, a tile of tokens is
/// as fast.
const VECTOR_TOKENS: usize = 8;

/// Up to here a tile of 64 columns would be half idle, and too few tiles there are for a card.
const NARROW: usize = 32;

/// The registry's entry for [`forward`] and [`backward`].
pub static OP: Op = Op { name: "linear", kernels: KERNELS, variants: &WEIGHT_VARIANTS, cases };

/// The registry's entry for [`gradient`].
pub static OP_GRADIENT: Op =
    Op { name: "linear_gradient", kernels: GRADIENT_KERNELS, variants: &[&[]], cases: gradient_cases };

/// y `[M, N]` = α · x`[M, K]`·w`[N, K]`ᵀ, or y += it where `accumulate`.
///
/// # Panics
/// Where the views' lengths do not fit w: a mistake of the calling code.
pub fn forward(rec: &mut Recording, x: &View, w: &Matrix, y: &View, alpha: f32, accumulate: bool) {
    let (rows, cols) = w.shape();
    let tokens = check("linear forward", x, y, rows, cols);
    let choices = if tokens <= VECTOR_TOKENS {
        let grid = [rows.div_ceil(32) as u32, tokens as u32, 1];
        let vector = Choice::portable(&FORWARD_VECTOR, grid);
        Choices { more: vec![vector.needing(Tier::Subgroups)], ..Choices::only(vector) }
    } else {
        let mut choices = tiles(&FORWARD, &FORWARD_TILE, &FORWARD_NARROW, tokens, rows);
        if rows > NARROW {
            choices.more.extend(matrices(&FORWARD_MATRIX, Tier::Matrices, tokens, rows));
            // LoRA's factors, which are trained, keep their digits.
            if matches!(w, Matrix::Frozen { .. }) {
                choices.more.push(choices.card.needing(Tier::Half));
                for tier in [Tier::HalfMatrices8, Tier::HalfMatrices16] {
                    choices.more.extend(matrices(&FORWARD_MATRIX, tier, tokens, rows));
                }
            }
        }
        choices
    };
    rec.choose(
        choices,
        class(tokens, rows, cols),
        2.0 * (tokens * rows * cols) as f64,
        weight_defines(w.dtype()),
        &Params::new(tokens, rows, cols, alpha, accumulate),
        [Arg::from(x), w.into(), y.into()],
    );
}

/// dx `[M, K]` = α · dy`[M, N]`·w`[N, K]`, or dx += it where `accumulate`.
///
/// # Panics
/// Where the views' lengths do not fit w: a mistake of the calling code.
pub fn backward(rec: &mut Recording, dy: &View, w: &Matrix, dx: &View, alpha: f32, accumulate: bool) {
    let (rows, cols) = w.shape();
    let tokens = check("linear backward", dx, dy, rows, cols);
    // None in f16: most gradients are smaller than what it can hold.
    let mut choices = tiles(&BACKWARD, &BACKWARD_TILE, &BACKWARD_NARROW, tokens, cols);
    if cols > NARROW {
        choices.more.extend(matrices(&BACKWARD_MATRIX, Tier::Matrices, tokens, cols));
    }
    rec.choose(
        choices,
        class(tokens, rows, cols),
        2.0 * (tokens * rows * cols) as f64,
        weight_defines(w.dtype()),
        &Params::new(tokens, rows, cols, alpha, accumulate),
        [Arg::from(dy), w.into(), dx.into()],
    );
}

/// c `[rows, cols]` = α · a`[T, rows]`ᵀ·b`[T, cols]`, or c += it where `accumulate`: with a = dy
/// and b = x the gradient of a dense weight. Each element's sum runs over the T tokens in one fixed
/// order.
///
/// # Panics
/// Where the views' lengths do not fit: a mistake of the calling code.
pub fn gradient(
    rec: &mut Recording,
    a: &View,
    b: &View,
    c: &View,
    rows: usize,
    cols: usize,
    alpha: f32,
    accumulate: bool,
) {
    let tokens = check("linear gradient", b, a, rows, cols);
    assert_eq!(c.len(), rows * cols, "linear gradient: {}", c.label());
    let blocks = rows.div_ceil(8) * cols.div_ceil(16);
    let choices = Choices {
        software: Choice::portable(&GRADIENT, grid_1d(blocks.div_ceil(8))),
        card: Choice::portable(&GRADIENT_NARROW, grid_2d(16, cols, rows)),
        more: Vec::new(),
    };
    rec.choose(
        choices,
        class(tokens, rows, cols),
        2.0 * (tokens * rows * cols) as f64,
        &[],
        &Params::new(tokens, rows, cols, alpha, accumulate),
        [a, b, c],
    );
}

/// Number of tokens of `inputs [tokens, cols]` and `outputs [tokens, rows]`.
fn check(what: &str, inputs: &View, outputs: &View, rows: usize, cols: usize) -> usize {
    assert!(
        rows.is_multiple_of(4) && cols.is_multiple_of(4) && rows > 0 && cols > 0,
        "{what}: a matrix [{rows}, {cols}], both must be multiples of 4"
    );
    let tokens = inputs.len() / cols;
    assert_eq!(
        (inputs.len(), outputs.len()),
        (tokens * cols, tokens * rows),
        "{what}: {} and {} with a matrix [{rows}, {cols}]",
        inputs.label(),
        outputs.label()
    );
    tokens
}

/// Workgroups of `side` × `side` results; `x` and `y` are what the grid's axes count.
fn grid_2d(side: usize, x: usize, y: usize) -> [u32; 3] {
    [x.div_ceil(side) as u32, y.div_ceil(side) as u32, 1]
}

/// The kernels that can make a result of `tokens` × `cols`.
fn tiles(
    registers: &'static Kernel,
    tile: &'static Kernel,
    narrow: &'static Kernel,
    tokens: usize,
    cols: usize,
) -> Choices {
    // In registers, 8 × 4 invocations have 8 tokens × 16 columns each.
    let software = Choice::portable(registers, grid_2d(64, tokens, cols));
    let card = if cols <= NARROW {
        Choice::portable(narrow, grid_2d(16, tokens, cols))
    } else {
        Choice::portable(tile, grid_2d(64, tokens, cols))
    };
    Choices { software, card, more: Vec::new() }
}

/// A kernel whose subgroups multiply matrices, four to a side of the result.
fn matrices(kernel: &'static Kernel, needs: Tier, tokens: usize, cols: usize) -> Option<Choice> {
    let grid = grid_2d(4 * needs.side()?, tokens, cols);
    Some(Choice::portable(kernel, grid).needing(needs))
}

/// Calls of one class have the same matrix and about the same number of tokens.
fn class(tokens: usize, rows: usize, cols: usize) -> [u32; 3] {
    [tokens.max(1).ilog2(), rows as u32, cols as u32]
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let p: Params = call.params();
    let [x, w, y] = call.args();
    let (x, y, tokens) = (x.read(), y.write(), p.tokens as usize);
    let (alpha, beta) = (T::from_f32(p.alpha), T::from_f32(p.beta));
    match w.matrix() {
        CpuMatrix::Frozen { dtype, rows, cols, data } => {
            let w = WeightRef { dtype, rows, cols, data };
            linear_nt(x, w, y, tokens, alpha, beta);
        }
        CpuMatrix::Dense { rows, cols, data } => gemm_nt(x, data, y, tokens, rows, cols, alpha, beta),
    }
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let p: Params = call.params();
    let [dy, w, dx] = call.args();
    let (dy, dx, tokens) = (dy.read(), dx.write(), p.tokens as usize);
    let (alpha, beta) = (T::from_f32(p.alpha), T::from_f32(p.beta));
    match w.matrix() {
        CpuMatrix::Frozen { dtype, rows, cols, data } => {
            let w = WeightRef { dtype, rows, cols, data };
            linear_nn(dy, w, dx, tokens, alpha, beta);
        }
        CpuMatrix::Dense { rows, cols, data } => gemm_nn(dy, data, dx, tokens, cols, rows, alpha, beta),
    }
}

fn gradient_cpu<T: Real>(call: Call<'_, T>) {
    let p: Params = call.params();
    let (tokens, rows, cols) = (p.tokens as usize, p.rows as usize, p.cols as usize);
    let [a, b, c] = call.args();
    let (alpha, beta) = (T::from_f32(p.alpha), T::from_f32(p.beta));
    gemm_tn(a.read(), b.read(), c.write(), rows, cols, tokens, alpha, beta);
}

/// Forward and backward with a frozen weight `[rows, cols]`.
fn frozen_case(dtype: DType, tokens: usize, rows: usize, cols: usize) -> Case {
    let label = format!("{} {tokens} tokens, [{rows}, {cols}]", dtype.name());
    Case::new(label, move |rec, t| {
        forward(rec, t.view("x"), &t.matrix("w", rows, cols), t.view("y"), 1.0, false);
    })
    .input("x", &[tokens, cols], Fill::Random(1.0))
    .input("w", &[rows, cols], Fill::Weight(dtype))
    .output("y", &[tokens, rows])
    .upstream("y", "dy", &[tokens, rows])
    .gradient("x", "dx", &[tokens, cols])
    .backward(move |rec, t| {
        backward(rec, t.view("dy"), &t.matrix("w", rows, cols), t.view("dx"), 1.0, false);
    })
}

/// The three products added to what is there: y and dx are inputs too.
fn adding_case(dtype: DType, tokens: usize, rows: usize, cols: usize) -> Case {
    let label = format!("{} {tokens} tokens, [{rows}, {cols}], half of it added", dtype.name());
    Case::new(label, move |rec, t| {
        let w = t.matrix("w", rows, cols);
        forward(rec, t.view("x"), &w, t.view("y"), 0.5, true);
        backward(rec, t.view("dy"), &w, t.view("dx"), 0.5, true);
    })
    .input("x", &[tokens, cols], Fill::Random(1.0))
    .input("w", &[rows, cols], Fill::Weight(dtype))
    .input("y", &[tokens, rows], Fill::Random(1.0))
    .input("dy", &[tokens, rows], Fill::Random(1.0))
    .input("dx", &[tokens, cols], Fill::Random(1.0))
    .updates("y")
    .updates("dx")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &dtype in DType::ALL {
        let unit = dtype.block_len().max(4);
        // One block, odd numbers of blocks, just under and over a tile of 64 tokens and columns.
        let sizes: &[[usize; 3]] = if unit > 64 {
            &[[1, 4, unit], [3, 36, 3 * unit], [9, 68, unit], [65, 132, unit], [130, 20, unit]]
        } else {
            &[
                [1, 4, unit],
                [3, 36, 3 * unit],
                [7, 12, 5 * unit],
                [8, 64, unit],
                [9, 68, 7 * unit],
                [63, 60, 64],
                [64, 64, 32],
                [65, 132, 96],
                [130, 20, 160],
            ]
        };
        cases.extend(sizes.iter().map(|&[tokens, rows, cols]| frozen_case(dtype, tokens, rows, cols)));
        cases.push(adding_case(dtype, 1, 8, unit));
        cases.push(adding_case(dtype, 67, 68, 3 * unit));
    }
    // SmolLM2's query and key projections and a piece of its head.
    cases.push(frozen_case(DType::Q4_1, 33, 576, 576));
    cases.push(frozen_case(DType::Q4_1, 70, 192, 576));
    cases.push(frozen_case(DType::Q8_0, 5, 1024, 576));
    cases
}

/// A dense weight as LoRA has them, with all three products.
fn dense_case(tokens: usize, rows: usize, cols: usize) -> Case {
    Case::new(format!("{tokens} tokens, [{rows}, {cols}]"), move |rec, t| {
        forward(rec, t.view("x"), &t.matrix("w", rows, cols), t.view("y"), 2.0, false);
    })
    .input("x", &[tokens, cols], Fill::Random(1.0))
    .input("w", &[rows, cols], Fill::Random(1.0))
    .output("y", &[tokens, rows])
    .upstream("y", "dy", &[tokens, rows])
    .gradient("x", "dx", &[tokens, cols])
    .gradient("w", "dw", &[rows, cols])
    .backward(move |rec, t| {
        backward(rec, t.view("dy"), &t.matrix("w", rows, cols), t.view("dx"), 2.0, false);
        gradient(rec, t.view("dy"), t.view("x"), t.view("dw"), rows, cols, 2.0, false);
    })
}

fn gradient_cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        [(1, 4, 4), (2, 4, 36), (7, 12, 16), (9, 16, 132), (63, 132, 16), (65, 68, 64), (130, 8, 576), (257, 576, 16)]
            .into_iter()
            .map(|(tokens, rows, cols)| dense_case(tokens, rows, cols))
            .collect();
    cases.push(
        Case::new("half of it added", |rec, t| {
            gradient(rec, t.view("a"), t.view("b"), t.view("c"), 16, 68, 0.5, true);
        })
        .input("a", &[33, 16], Fill::Random(1.0))
        .input("b", &[33, 68], Fill::Random(1.0))
        .input("c", &[16, 68], Fill::Random(1.0))
        .updates("c"),
    );
    cases
}
