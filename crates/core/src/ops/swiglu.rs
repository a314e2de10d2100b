//! The gated activation of feed-forward layers (arXiv 2002.05202).
//!
//! With gate g, up u `[N, F]`, σ the logistic function and s = σ(g), or for GELU by tanh s = σ(2√(2/π)·(g + 0.044715·g³)):
//! - forward: y = g·s·u
//! - backward: dg = dy·u·(s + g·s'), du = dy·g·s

use bft_formats::Gate;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::cpu;
use crate::device::{Access, Call, Kernel, Recording, View};
use crate::real::Real;

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    kind: u32,
    pad: [u32; 2],
}

const KINDS: [Gate; 2] = [Gate::Silu, Gate::GeluTanh];

fn params(len: usize, kind: Gate) -> Params {
    let kind = match kind {
        Gate::Silu => 0,
        Gate::GeluTanh => 1,
    };
    Params { len: len as u32, kind, pad: [0; 2] }
}

static FORWARD: Kernel = Kernel {
    shader: "swiglu",
    entry: "forward",
    bindings: &[("gate", Access::Read), ("up", Access::Read), ("y", Access::Write)],
    params_size: size_of::<Params>(),
    cpu_f32: forward_cpu,
    cpu_f64: forward_cpu,
};

static BACKWARD: Kernel = Kernel {
    shader: "swiglu",
    entry: "backward",
    bindings: &[
        ("gate", Access::Read),
        ("up", Access::Read),
        ("dy", Access::Read),
        ("dgate", Access::Write),
        ("dup", Access::Write),
    ],
    params_size: size_of::<Params>(),
    cpu_f32: backward_cpu,
    cpu_f64: backward_cpu,
};

/// The registry's entry.
pub static OP: Op = Op { name: "swiglu", kernels: &[&FORWARD, &BACKWARD], variants: &[&[]], cases };

/// y = f(gate) · up, element by element.
pub fn forward(rec: &mut Recording, kind: Gate, gate: &View, up: &View, y: &View) {
    rec.dispatch(&FORWARD, &[], &params(gate.len(), kind), vec![gate.into(), up.into(), y.into()], groups(gate.len()));
}

/// Gradients of gate and up.
pub fn backward(rec: &mut Recording, kind: Gate, gate: &View, up: &View, dy: &View, dgate: &View, dup: &View) {
    let args = vec![gate.into(), up.into(), dy.into(), dgate.into(), dup.into()];
    rec.dispatch(&BACKWARD, &[], &params(gate.len(), kind), args, groups(gate.len()));
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
