//! Layer normalisation of a sum (arXiv 1607.06450), as BERT has it behind each branch.
//!
//! With x, r, y, dy, dx `[rows, dim]`, shift c, weight w and bias b `[dim]`, z = x + r + c, μ =
//! mean(z), s = 1/√(mean((z − μ)²) + eps) and n = (z − μ)·s, a row's
//! - forward: y = n·w + b
//! - backward: dx = dr = s·(w·dy − mean(w·dy) − n·mean(w·dy·n)); c, w and b are frozen.
//!
//! r is the residual stream and c the bias of the layer that made x; or x, r and c are a token's,
//! its position's and its type's embedding.

use rayon::prelude::*;

use super::Op;
use super::case::{Case, Fill};
use crate::cpu;
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        rows: u32,
        dim: u32,
        eps: f32,
    }
}

kernels! { KERNELS of Params:
    FORWARD = "layer_norm"::forward(x: Read, r: Read, shift: Read, weight: Read, bias: Read, y: Write) => forward_cpu;
    BACKWARD = "layer_norm"::backward(
        x: Read, r: Read, shift: Read, weight: Read, dy: Read, dx: Write
    ) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "layer_norm", kernels: KERNELS, variants: &[&[]], cases };

/// y = norm(x + r + shift); x, r and y are `[rows, dim]`, shift, weight and bias `[dim]`.
pub fn forward(rec: &mut Recording, x: &View, r: &View, shift: &View, weight: &View, bias: &View, y: &View, eps: f32) {
    let rows = x.len() / weight.len();
    let params = params(rows, weight.len(), eps);
    rec.dispatch(&FORWARD, &params, [x, r, shift, weight, bias, y], grid_1d(rows));
}

/// dx, the gradient of x and of r alike.
pub fn backward(rec: &mut Recording, x: &View, r: &View, shift: &View, weight: &View, dy: &View, dx: &View, eps: f32) {
    let rows = x.len() / weight.len();
    let params = params(rows, weight.len(), eps);
    rec.dispatch(&BACKWARD, &params, [x, r, shift, weight, dy, dx], grid_1d(rows));
}

fn params(rows: usize, dim: usize, eps: f32) -> Params {
    Params { rows: rows as u32, dim: dim as u32, eps }
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let dim = params.dim as usize;
    let [x, r, shift, weight, bias, y] = call.args();
    let norm = cpu::LayerNorm { shift: shift.read(), weight: weight.read(), eps: T::from_f32(params.eps) };
    let (x, r, bias) = (x.read(), r.read(), bias.read());
    y.write()
        .par_chunks_exact_mut(dim)
        .zip(x.par_chunks_exact(dim).zip(r.par_chunks_exact(dim)))
        .with_min_len(16)
        .for_each(|(y, (x, r))| norm.forward(x, r, bias, y));
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let dim = params.dim as usize;
    let [x, r, shift, weight, dy, dx] = call.args();
    let norm = cpu::LayerNorm { shift: shift.read(), weight: weight.read(), eps: T::from_f32(params.eps) };
    let inputs = x.read().par_chunks_exact(dim).zip(r.read().par_chunks_exact(dim));
    dx.write()
        .par_chunks_exact_mut(dim)
        .zip(dy.read().par_chunks_exact(dim).zip(inputs))
        .with_min_len(16)
        .for_each(|(dx, (dy, (x, r)))| norm.backward(x, r, dy, dx));
}

fn cases() -> Vec<Case> {
    let case = |rows: usize, dim: usize, eps: f32| {
        Case::new(format!("{rows} rows of {dim}"), move |rec, t| {
            forward(rec, t.view("x"), t.view("r"), t.view("shift"), t.view("weight"), t.view("bias"), t.view("y"), eps);
        })
        .input("x", &[rows, dim], Fill::Between(-1.0, 3.0))
        .input("r", &[rows, dim], Fill::Random(1.0))
        .input("shift", &[dim], Fill::Random(1.0))
        .input("weight", &[dim], Fill::Between(0.5, 1.5))
        .input("bias", &[dim], Fill::Random(1.0))
        .output("y", &[rows, dim])
        .upstream("y", "dy", &[rows, dim])
        .gradient("x", "dx", &[rows, dim])
        .in_place_gradient("r", "dx")
        .backward(move |rec, t| {
            backward(rec, t.view("x"), t.view("r"), t.view("shift"), t.view("weight"), t.view("dy"), t.view("dx"), eps);
        })
    };
    vec![
        // A row of two: its gradient is not 0 thanks to eps alone.
        case(1, 2, 0.5),
        case(3, 5, 1e-5),
        case(2, 63, 1e-5),
        case(5, 64, 1e-12),
        case(7, 65, 1e-12),
        case(33, 384, 1e-12),
    ]
}
