//! The activation of BERT-like feed-forward blocks, behind the bias of the layer before it.
//!
//! With x, y, dy, dx `[N, F]`, bias b `[F]`, z = x + b, Φ and φ the normal distribution and
//! density, σ the logistic function:
//! - GELU (arXiv 1606.08415): y = z·Φ(z), dy/dz = Φ(z) + z·φ(z)
//! - GELU by tanh: y = z·σ(2u), u = √(2/π)·(z + 0.044715·z³), dy/dz = σ + z·σ·(1 − σ)·2u'
//! - ReLU: y = max(z, 0)
//!
//! dx = dy · dy/dz; b is frozen.

use bft_formats::Activation;
use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        cols: u32,
        kind: u32,
    }
}

const KINDS: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu];

kernels! { KERNELS of Params:
    FORWARD = "activation"::forward(x: Read, bias: Read, y: Write) => forward_cpu;
    BACKWARD = "activation"::backward(x: Read, bias: Read, dy: Read, dx: Write) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "activation", kernels: KERNELS, variants: &[&[]], cases };

/// y = f(x + bias), of x `[N, F]` and bias `[F]`.
pub fn forward(rec: &mut Recording, x: &View, bias: &View, y: &View, kind: Activation) {
    let params = params(x, bias, kind);
    rec.dispatch(&FORWARD, &params, [x, bias, y], groups(x.len()));
}

/// dx, the gradient of x.
pub fn backward(rec: &mut Recording, x: &View, bias: &View, dy: &View, dx: &View, kind: Activation) {
    let params = params(x, bias, kind);
    rec.dispatch(&BACKWARD, &params, [x, bias, dy, dx], groups(x.len()));
}

fn params(x: &View, bias: &View, kind: Activation) -> Params {
    Params {
        len: x.len() as u32,
        cols: bias.len() as u32,
        kind: match kind {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::Relu => 2,
        },
    }
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let kind = KINDS[call.params::<Params>().kind as usize];
    let [x, bias, y] = call.args();
    let (x, bias) = (x.read(), bias.read());
    y.write()
        .par_chunks_exact_mut(bias.len())
        .zip(x.par_chunks_exact(bias.len()))
        .with_min_len(8)
        .for_each(|(y, x)| cpu::activate(kind, x, bias, y));
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let kind = KINDS[call.params::<Params>().kind as usize];
    let [x, bias, dy, dx] = call.args();
    let (x, bias, dy) = (x.read(), bias.read(), dy.read());
    let inputs = x.par_chunks_exact(bias.len()).zip(dy.par_chunks_exact(bias.len()));
    dx.write()
        .par_chunks_exact_mut(bias.len())
        .zip(inputs)
        .with_min_len(8)
        .for_each(|(dx, (x, dy))| cpu::activate_backward(kind, x, bias, dy, dx));
}

fn cases() -> Vec<Case> {
    let case = |kind: Activation, rows: usize, cols: usize, scale: f32| {
        Case::new(format!("{kind:?} of {rows} rows of {cols} up to {scale}"), move |rec, t| {
            forward(rec, t.view("x"), t.view("bias"), t.view("y"), kind)
        })
        .input("x", &[rows, cols], Fill::Random(scale))
        .input("bias", &[cols], Fill::Random(1.0))
        .output("y", &[rows, cols])
        .upstream("y", "dy", &[rows, cols])
        .gradient("x", "dx", &[rows, cols])
        .backward(move |rec, t| {
            let (x, bias, dy, dx) = (t.view("x"), t.view("bias"), t.view("dy"), t.view("dx"));
            backward(rec, x, bias, dy, dx, kind);
        })
    };
    let mut cases: Vec<Case> =
        KINDS.into_iter().flat_map(|kind| [case(kind, 3, 21, 5.0), case(kind, 2, 5, 200.0)]).collect();
    for (rows, cols) in [(1, 1), (1, 64), (5, 65), (33, 1536)] {
        cases.push(case(Activation::Gelu, rows, cols, 3.0));
    }
    cases
}
