//! Root-mean-square normalisation of rows (arXiv 1910.07467).
//!
//! With x, y, dy, dx `[rows, dim]`, weight w `[dim]` and s = 1/√(mean(x²) + eps), a row's
//! - forward: y = x · s · w
//! - backward: dx = s · (w·dy − x · s² · mean(w·dy·x)); w is frozen.
//!
//! Normalises hidden states (rows = N, dim = H) and Qwen3's heads (rows = N·Q or N·K, dim = D).

use rayon::prelude::*;

use super::Op;
use super::case::{Case, Fill};
use crate::cpu;
use crate::device::{Call, Choice, Choices, Kernel, Recording, Tier, View, grid_1d, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        rows: u32,
        dim: u32,
        eps: f32,
        accumulate: u32,
    }
}

kernels! { KERNELS of Params:
    FORWARD = "rms_norm"::forward(x: Read, weight: Read, y: Write) => forward_cpu;
    BACKWARD = "rms_norm"::backward(x: Read, weight: Read, dy: Read, dx: ReadWrite) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "rms_norm", kernels: KERNELS, variants: &[&[]], cases };

/// y = x · s · w; all views are `[rows, dim]` but weight `[dim]`.
pub fn forward(rec: &mut Recording, x: &View, weight: &View, y: &View, dim: usize, eps: f32) {
    let rows = x.len() / dim;
    let params = Params { rows: rows as u32, dim: dim as u32, eps, accumulate: 0 };
    rec.choose(choices(&FORWARD, rows), class(rows, dim), 0.0, &[], &params, [x, weight, y]);
}

/// dx = gradient of x, or dx += it where `accumulate`.
pub fn backward(
    rec: &mut Recording,
    x: &View,
    weight: &View,
    dy: &View,
    dx: &View,
    dim: usize,
    eps: f32,
    accumulate: bool,
) {
    let rows = x.len() / dim;
    let params = Params { rows: rows as u32, dim: dim as u32, eps, accumulate: accumulate.into() };
    rec.choose(choices(&BACKWARD, rows), class(rows, dim), 0.0, &[], &params, [x, weight, dy, dx]);
}

fn choices(kernel: &'static Kernel, rows: usize) -> Choices {
    let portable = Choice::portable(kernel, grid_1d(rows));
    Choices { more: vec![portable.needing(Tier::Subgroups)], ..Choices::only(portable) }
}

/// Calls of one class have the same row and about the same number of them.
fn class(rows: usize, dim: usize) -> [u32; 3] {
    [rows.max(1).ilog2(), 1, dim as u32]
}

fn scale<T: Real>(x: &[T], params: &Params) -> T {
    let squares = cpu::dot(x, x);
    T::ONE / (squares / T::from_f64(x.len() as f64) + T::from_f32(params.eps)).sqrt()
}

/// Σ xᵢ·wᵢ·dyᵢ in sixteen partial sums: one running sum of f32 loses two digits over a row of
/// hidden_size.
fn weighted_dot<T: Real>(x: &[T], weight: &[T], dy: &[T]) -> T {
    let mut sums = [T::ZERO; 16];
    for ((x, weight), dy) in x.chunks(16).zip(weight.chunks(16)).zip(dy.chunks(16)) {
        for (((sum, x), weight), dy) in sums.iter_mut().zip(x).zip(weight).zip(dy) {
            *sum += *x * *weight * *dy;
        }
    }
    sums.into_iter().sum()
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let dim = params.dim as usize;
    let [x, weight, y] = call.args();
    let (x, weight, y) = (x.read(), weight.read(), y.write());
    y.par_chunks_exact_mut(dim).zip(x.par_chunks_exact(dim)).with_min_len(16).for_each(|(y, x)| {
        let scale = scale(x, &params);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = *x * scale * *weight;
        }
    });
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let dim = params.dim as usize;
    let [x, weight, dy, dx] = call.args();
    let (x, weight, dy, dx) = (x.read(), weight.read(), dy.read(), dx.write());
    let rows = dx.par_chunks_exact_mut(dim).zip(x.par_chunks_exact(dim)).zip(dy.par_chunks_exact(dim));
    rows.with_min_len(16).for_each(|((dx, x), dy)| {
        let scale = scale(x, &params);
        let dot = weighted_dot(x, weight, dy);
        let pull = dot * scale * scale / T::from_f64(dim as f64);
        for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
            let gradient = scale * (*weight * *dy - *x * pull);
            *dx = if params.accumulate == 1 { *dx + gradient } else { gradient };
        }
    });
}

fn cases() -> Vec<Case> {
    let eps = 1e-5;
    let mut cases = Vec::new();
    for (rows, dim) in [(1, 1), (3, 5), (2, 63), (5, 64), (7, 65), (33, 576)] {
        cases.push(
            Case::new(format!("{rows} rows of {dim}"), move |rec, t| {
                forward(rec, t.view("x"), t.view("weight"), t.view("y"), dim, eps);
            })
            .input("x", &[rows, dim], Fill::Random(2.0))
            .input("weight", &[dim], Fill::Between(0.5, 1.5))
            .output("y", &[rows, dim])
            .upstream("y", "dy", &[rows, dim])
            .gradient("x", "dx", &[rows, dim])
            .backward(move |rec, t| {
                backward(rec, t.view("x"), t.view("weight"), t.view("dy"), t.view("dx"), dim, eps, false);
            }),
        );
    }
    cases.push(
        Case::new("adds to dx", move |rec, t| {
            backward(rec, t.view("x"), t.view("weight"), t.view("dy"), t.view("dx"), 48, eps, true);
        })
        .input("x", &[9, 48], Fill::Random(2.0))
        .input("weight", &[48], Fill::Random(1.0))
        .input("dy", &[9, 48], Fill::Random(1.0))
        .input("dx", &[9, 48], Fill::Random(1.0))
        .updates("dx"),
    );
    cases
}
