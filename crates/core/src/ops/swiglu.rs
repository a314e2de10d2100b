//! The gated activation of feed-forward layers (arXiv 2002.05202).
//!
//! With gate g, up u `[N, F]`, σ the logistic and Φ the normal distribution function, and s = σ(g),
//! or for GELU s = Φ(g), or for GELU by tanh s = σ(2√(2/π)·(g + 0.044715·g³)):
//! - forward: y = g·s·u
//! - backward: dg = dy·u·(s + g·s'), du = dy·g·s

use bft_formats::Gate;
use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        kind: u32,
    }
}

const KINDS: [Gate; 3] = [Gate::Silu, Gate::GeluTanh, Gate::Gelu];

fn params(len: usize, kind: Gate) -> Params {
    let kind = match kind {
        Gate::Silu => 0,
        Gate::GeluTanh => 1,
        Gate::Gelu => 2,
    };
    Params { len: len as u32, kind }
}

kernels! { KERNELS of Params:
    FORWARD = "swiglu"::forward(gate: Read, up: Read, y: Write) => forward_cpu;
    BACKWARD = "swiglu"::backward(gate: Read, up: Read, dy: Read, dgate: Write, dup: Write) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "swiglu", kernels: KERNELS, variants: &[&[]], cases };

/// y = f(gate) · up, element by element.
pub fn forward(rec: &mut Recording, kind: Gate, gate: &View, up: &View, y: &View) {
    rec.dispatch(&FORWARD, &params(gate.len(), kind), [gate, up, y], groups(gate.len()));
}

/// Gradients of gate and up.
pub fn backward(rec: &mut Recording, kind: Gate, gate: &View, up: &View, dy: &View, dgate: &View, dup: &View) {
    rec.dispatch(&BACKWARD, &params(gate.len(), kind), [gate, up, dy, dgate, dup], groups(gate.len()));
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let kind = KINDS[call.params::<Params>().kind as usize];
    let [gate, up, y] = call.args();
    let (gate, up, y) = (gate.read(), up.read(), y.write());
    let inputs = gate.par_chunks(CPU_CHUNK).zip(up.par_chunks(CPU_CHUNK));
    y.par_chunks_mut(CPU_CHUNK).zip(inputs).for_each(|(y, (gate, up))| cpu::gate_mul(kind, gate, up, y));
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let kind = KINDS[call.params::<Params>().kind as usize];
    let [gate, up, dy, dgate, dup] = call.args();
    let (gate, up, dy) = (gate.read(), up.read(), dy.read());
    let inputs = gate.par_chunks(CPU_CHUNK).zip(up.par_chunks(CPU_CHUNK)).zip(dy.par_chunks(CPU_CHUNK));
    let outputs = dgate.write().par_chunks_mut(CPU_CHUNK).zip(dup.write().par_chunks_mut(CPU_CHUNK));
    outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
        cpu::gate_mul_backward(kind, gate, up, dy, dgate, dup);
    });
}

fn cases() -> Vec<Case> {
    let case = |kind: Gate, len: usize, scale: f32| {
        Case::new(format!("{kind:?} of {len} elements up to {scale}"), move |rec, t| {
            forward(rec, kind, t.view("gate"), t.view("up"), t.view("y"));
        })
        .input("gate", &[len], Fill::Random(scale))
        .input("up", &[len], Fill::Random(2.0))
        .output("y", &[len])
        .upstream("y", "dy", &[len])
        .gradient("gate", "dgate", &[len])
        .gradient("up", "dup", &[len])
        .backward(move |rec, t| {
            backward(rec, kind, t.view("gate"), t.view("up"), t.view("dy"), t.view("dgate"), t.view("dup"));
        })
    };
    let sizes = [(1, 3.0), (63, 3.0), (64, 3.0), (65, 3.0), (5, 200.0), (70_001, 3.0)];
    KINDS.into_iter().flat_map(|kind| sizes.map(|(len, scale)| case(kind, len, scale))).collect()
}
