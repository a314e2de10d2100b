//! Stand-in until the op with its shader lands: the CPU twin alone. (ops helper: replace this file with yours.)
#![allow(missing_docs)]
use crate::cpu::{AttentionShape, attention_backward, attention_cached, attention_forward};
use crate::device::*;
use crate::real::Real;
use bytemuck::{Pod, Zeroable};
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    h: u32,
    k: u32,
    d: u32,
    past: u32,
}
fn sh(p: &Params) -> AttentionShape {
    AttentionShape {
        heads: p.h as usize,
        kv_heads: p.k as usize,
        head_dim: p.d as usize,
    }
}
fn segs(spans: &[u32]) -> Vec<u32> {
    let mut s = vec![];
    for c in spans.chunks(2) {
        if s.last() != Some(&c[0]) {
            s.push(c[0]);
        }
    }
    s.push(spans.len() as u32 / 2);
    s
}
fn f<T: Real>(c: Call<'_, T>) {
    let p: Params = c.params();
    let [q, k, v, s, o, l] = c.args();
    attention_forward(
        q.read(),
        k.read(),
        v.read(),
        &segs(s.ids()),
        sh(&p),
        T::ONE / T::from_f64(f64::from(p.d)).sqrt(),
        o.write(),
        l.write(),
    );
}
fn b<T: Real>(c: Call<'_, T>) {
    let p: Params = c.params();
    let [q, k, v, s, o, l, d_o, _dl, dq, dk, dv] = c.args();
    attention_backward(
        q.read(),
        k.read(),
        v.read(),
        o.read(),
        l.read(),
        d_o.read(),
        &segs(s.ids()),
        sh(&p),
        T::ONE / T::from_f64(f64::from(p.d)).sqrt(),
        dq.write(),
        dk.write(),
        dv.write(),
    );
}
fn ca<T: Real>(c: Call<'_, T>) {
    let p: Params = c.params();
    let [q, k, v, o] = c.args();
    attention_cached(
        q.read(),
        k.read(),
        v.read(),
        p.past as usize,
        sh(&p),
        T::ONE / T::from_f64(f64::from(p.d)).sqrt(),
        o.write(),
    );
}
static F: Kernel = Kernel {
    shader: "attention",
    entry: "forward",
    bindings: &[
        ("q", Access::Read),
        ("k", Access::Read),
        ("v", Access::Read),
        ("spans", Access::Ids),
        ("o", Access::Write),
        ("lse", Access::Write),
    ],
    params_size: 16,
    cpu_f32: f,
    cpu_f64: f,
};
static B: Kernel = Kernel {
    shader: "attention",
    entry: "backward",
    bindings: &[
        ("q", Access::Read),
        ("k", Access::Read),
        ("v", Access::Read),
        ("spans", Access::Ids),
        ("o", Access::Read),
        ("lse", Access::Read),
        ("d_o", Access::Read),
        ("delta", Access::Write),
        ("dq", Access::Write),
        ("dk", Access::Write),
        ("dv", Access::Write),
    ],
    params_size: 16,
    cpu_f32: b,
    cpu_f64: b,
};
static C: Kernel = Kernel {
    shader: "attention",
    entry: "cached",
    bindings: &[
        ("q", Access::Read),
        ("k", Access::Read),
        ("v", Access::Read),
        ("o", Access::Write),
    ],
    params_size: 16,
    cpu_f32: ca,
    cpu_f64: ca,
};
fn p(s: Shape, past: usize) -> Params {
    Params {
        h: s.heads as u32,
        k: s.kv_heads as u32,
        d: s.head_dim as u32,
        past: past as u32,
    }
}
pub fn forward(
    rec: &mut Recording,
    q: &View,
    k: &View,
    v: &View,
    spans: &View,
    o: &View,
    lse: &View,
    s: Shape,
) {
    rec.dispatch(
        &F,
        &[],
        &p(s, 0),
        vec![
            q.into(),
            k.into(),
            v.into(),
            spans.into(),
            o.into(),
            lse.into(),
        ],
        [1, 1, 1],
    );
}
pub fn backward(
    rec: &mut Recording,
    q: &View,
    k: &View,
    v: &View,
    spans: &View,
    o: &View,
    lse: &View,
    d_o: &View,
    delta: &View,
    dq: &View,
    dk: &View,
    dv: &View,
    s: Shape,
) {
    rec.dispatch(
        &B,
        &[],
        &p(s, 0),
        vec![
            q.into(),
            k.into(),
            v.into(),
            spans.into(),
            o.into(),
            lse.into(),
            d_o.into(),
            delta.into(),
            dq.into(),
            dk.into(),
            dv.into(),
        ],
        [1, 1, 1],
    );
}
pub fn cached(rec: &mut Recording, q: &View, k: &View, v: &View, o: &View, past: usize, s: Shape) {
    rec.dispatch(
        &C,
        &[],
        &p(s, past),
        vec![q.into(), k.into(), v.into(), o.into()],
        [1, 1, 1],
    );
}
