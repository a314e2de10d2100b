//! A soft cap of logits, in place, and what its slope does to the head's gradient.
//!
//! - forward: x ← y = c·tanh(x / c); where a gradient follows, also the slope 1 − tanh²
//! - backward: [`multiply`] by the slope what stands in the place of the logits, and
//!   [`multiply_rows`] the rows of W that belong to the labels by 1 − (y / c)², of the label's y.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::head::STATE;
use super::{CPU_CHUNK, Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        cols: u32,
        cap: f32,
    }
}

kernels! { KERNELS of Params:
    CAP = "soft_cap"::cap(x: ReadWrite) => cap_cpu;
    CAP_AND_SLOPE = "soft_cap"::cap_and_slope(x: ReadWrite, slope: Write) => cap_and_slope_cpu;
    MULTIPLY = "soft_cap"::multiply(x: ReadWrite, slope_read: Read) => multiply_cpu;
    MULTIPLY_ROWS = "soft_cap"::multiply_rows(x: ReadWrite, state: Read) => multiply_rows_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "soft_cap", kernels: KERNELS, variants: &[&[]], cases };

/// x ← c·tanh(x / c), and its slope, as long as x, where one is wanted.
pub fn forward(rec: &mut Recording, x: &View, slope: Option<&View>, cap: f32) {
    let params = Params { len: x.len() as u32, cols: 0, cap };
    match slope {
        None => rec.dispatch(&CAP, &params, [x], groups(x.len())),
        Some(slope) => rec.dispatch(&CAP_AND_SLOPE, &params, [x, slope], groups(x.len())),
    }
}

/// x ← x·slope, both of one length.
pub fn multiply(rec: &mut Recording, x: &View, slope: &View) {
    let params = Params { len: x.len() as u32, cols: 0, cap: 0.0 };
    rec.dispatch(&MULTIPLY, &params, [x, slope], groups(x.len()));
}

/// Each row of x `[R, H]` times 1 − (l / c)², with its label's capped logit l in the head's `state`
/// `[R, 4]`.
pub fn multiply_rows(rec: &mut Recording, x: &View, state: &View, cap: f32) {
    let cols = x.len() / (state.len() / STATE);
    let params = Params { len: x.len() as u32, cols: cols as u32, cap };
    rec.dispatch(&MULTIPLY_ROWS, &params, [x, state], groups(x.len()));
}

fn cap_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [x] = call.args();
    x.write().par_chunks_mut(CPU_CHUNK).for_each(|x| cpu::soft_cap(x, params.cap));
}

fn cap_and_slope_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [x, slope] = call.args();
    let cap = T::from_f32(params.cap);
    x.write().par_chunks_mut(CPU_CHUNK).zip(slope.write().par_chunks_mut(CPU_CHUNK)).for_each(|(x, slope)| {
        cpu::soft_cap(x, params.cap);
        for (slope, x) in slope.iter_mut().zip(x) {
            *slope = T::ONE - (*x / cap) * (*x / cap);
        }
    });
}

fn multiply_cpu<T: Real>(call: Call<'_, T>) {
    let [x, slope] = call.args();
    x.write().par_chunks_mut(CPU_CHUNK).zip(slope.read().par_chunks(CPU_CHUNK)).for_each(|(x, slope)| {
        x.iter_mut().zip(slope).for_each(|(x, slope)| *x *= *slope);
    });
}

fn multiply_rows_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [x, state] = call.args();
    let rows = x.write().par_chunks_exact_mut(params.cols as usize).zip(state.read().par_chunks_exact(STATE));
    rows.for_each(|(x, state)| {
        let t = state[2] / T::from_f32(params.cap);
        x.iter_mut().for_each(|x| *x *= T::ONE - t * t);
    });
}

fn cases() -> Vec<Case> {
    let cap = |len: usize, most: f32| {
        Case::new(format!("{len} logits up to {most}"), |rec, t| forward(rec, t.view("x"), None, 30.0))
            .input("x", &[len], Fill::Random(most))
            .updates("x")
    };
    let slope = |len: usize| {
        Case::new(format!("{len} logits and slopes"), |rec, t| forward(rec, t.view("x"), Some(t.view("slope")), 3.0))
            .input("x", &[len], Fill::Random(5.0))
            .updates("x")
            .output("slope", &[len])
    };
    let by = |len: usize| {
        Case::new(format!("{len} products"), |rec, t| multiply(rec, t.view("x"), t.view("slope")))
            .input("x", &[len], Fill::Random(1.0))
            .input("slope", &[len], Fill::Random(1.0))
            .updates("x")
    };
    let rows = |rows: usize, cols: usize| {
        Case::new(format!("{rows} rows of {cols}"), |rec, t| multiply_rows(rec, t.view("x"), t.view("state"), 2.0))
            .input("x", &[rows, cols], Fill::Random(1.0))
            .input("state", &[rows, STATE], Fill::Random(1.9))
            .updates("x")
    };
    vec![cap(1, 1.0), cap(65, 100.0), cap(70_001, 50.0), slope(1), slope(70), by(67), rows(1, 4), rows(7, 66)]
}
