//! The gated activation of Llama-like blocks (arXiv 2002.05202).
//!
//! With gate g, up u `[N, F]`, σ the logistic function:
//! - forward: y = g·σ(g)·u
//! - backward: dg = dy·u·σ(g)·(1 + g·(1 − σ(g))), du = dy·g·σ(g)

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
    }
}

kernels! { KERNELS of Params:
    FORWARD = "swiglu"::forward(gate: Read, up: Read, y: Write) => forward_cpu;
    BACKWARD = "swiglu"::backward(gate: Read, up: Read, dy: Read, dgate: Write, dup: Write) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "swiglu", kernels: KERNELS, variants: &[&[]], cases };

/// y = silu(gate) · up, element by element.
pub fn forward(rec: &mut Recording, gate: &View, up: &View, y: &View) {
    let params = Params { len: gate.len() as u32 };
    rec.dispatch(&FORWARD, &params, [gate, up, y], groups(gate.len()));
}

/// Gradients of gate and up.
pub fn backward(rec: &mut Recording, gate: &View, up: &View, dy: &View, dgate: &View, dup: &View) {
    let params = Params { len: gate.len() as u32 };
    rec.dispatch(&BACKWARD, &params, [gate, up, dy, dgate, dup], groups(gate.len()));
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let [gate, up, y] = call.args();
    let (gate, up, y) = (gate.read(), up.read(), y.write());
    let inputs = gate.par_chunks(CPU_CHUNK).zip(up.par_chunks(CPU_CHUNK));
    y.par_chunks_mut(CPU_CHUNK).zip(inputs).for_each(|(y, (gate, up))| cpu::silu_mul(gate, up, y));
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let [gate, up, dy, dgate, dup] = call.args();
    let (gate, up, dy) = (gate.read(), up.read(), dy.read());
    let inputs = gate.par_chunks(CPU_CHUNK).zip(up.par_chunks(CPU_CHUNK)).zip(dy.par_chunks(CPU_CHUNK));
    let outputs = dgate.write().par_chunks_mut(CPU_CHUNK).zip(dup.write().par_chunks_mut(CPU_CHUNK));
    outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
        cpu::silu_mul_backward(gate, up, dy, dgate, dup);
    });
}

fn cases() -> Vec<Case> {
    let case = |len: usize, scale: f32| {
        Case::new(format!("{len} elements up to {scale}"), |rec, t| {
            forward(rec, t.view("gate"), t.view("up"), t.view("y"));
        })
        .input("gate", &[len], Fill::Random(scale))
        .input("up", &[len], Fill::Random(2.0))
        .output("y", &[len])
        .upstream("y", "dy", &[len])
        .gradient("gate", "dgate", &[len])
        .gradient("up", "dup", &[len])
        .backward(|rec, t| {
            backward(rec, t.view("gate"), t.view("up"), t.view("dy"), t.view("dgate"), t.view("dup"));
        })
    };
    vec![case(1, 3.0), case(63, 3.0), case(64, 3.0), case(65, 3.0), case(5, 200.0), case(70_001, 3.0)]
}
