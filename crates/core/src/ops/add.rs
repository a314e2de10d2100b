//! Sums: the residual y = a + b, whose gradient flows to both unchanged, and a frozen bias added to
//! every row, whose gradient is not needed.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        cols: u32,
    }
}

kernels! { KERNELS of Params:
    RESIDUAL = "add"::residual(a: Read, b: Read, y: Write) => residual_cpu;
    ADD_BIAS = "add"::add_bias(bias: Read, x: ReadWrite) => add_bias_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "add", kernels: KERNELS, variants: &[&[]], cases };

/// y = a + b, all of one length.
pub fn residual(rec: &mut Recording, a: &View, b: &View, y: &View) {
    let params = Params { len: y.len() as u32, cols: 1 };
    rec.dispatch(&RESIDUAL, &params, [a, b, y], groups(y.len()));
}

/// Adds bias `[cols]` to every row of x `[N, cols]`.
pub fn add_bias(rec: &mut Recording, bias: &View, x: &View) {
    let params = Params { len: x.len() as u32, cols: bias.len() as u32 };
    rec.dispatch(&ADD_BIAS, &params, [bias, x], groups(x.len()));
}

fn residual_cpu<T: Real>(call: Call<'_, T>) {
    let [a, b, y] = call.args();
    let inputs = a.read().par_chunks(CPU_CHUNK).zip(b.read().par_chunks(CPU_CHUNK));
    y.write().par_chunks_mut(CPU_CHUNK).zip(inputs).for_each(|(y, (a, b))| {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = *a + *b;
        }
    });
}

fn add_bias_cpu<T: Real>(call: Call<'_, T>) {
    let [bias, x] = call.args();
    let bias = bias.read();
    x.write().par_chunks_exact_mut(bias.len()).with_min_len(16).for_each(|x| {
        for (x, bias) in x.iter_mut().zip(bias) {
            *x += *bias;
        }
    });
}

fn cases() -> Vec<Case> {
    let residual_of = |len: usize| {
        Case::new(format!("residual of {len}"), |rec, t| {
            residual(rec, t.view("a"), t.view("b"), t.view("y"));
        })
        .input("a", &[len], Fill::Random(1.0))
        .input("b", &[len], Fill::Random(1.0))
        .output("y", &[len])
    };
    let bias_of = |rows: usize, cols: usize| {
        Case::new(format!("bias on {rows} rows of {cols}"), |rec, t| {
            add_bias(rec, t.view("bias"), t.view("x"));
        })
        .input("bias", &[cols], Fill::Random(1.0))
        .input("x", &[rows, cols], Fill::Random(1.0))
        .updates("x")
    };
    vec![residual_of(1), residual_of(65), residual_of(70_001), bias_of(1, 4), bias_of(7, 9), bias_of(33, 576)]
}
