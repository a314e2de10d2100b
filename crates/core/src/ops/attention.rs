//! Attention with grouped key and value heads, over packed samples or a cache, never making `[N, N]` scores.
//!
//! q, o `[N, Q·D]`, k, v `[N, K·D]`; query head h reads key head ⌊h / (Q/K)⌋. For a query i and the keys j it sees,
//! with s_j = q_i·k_j / √D:
//! - forward: lse_i = ln Σ_j exp s_j, p_j = exp(s_j − lse_i), o_i = Σ_j p_j·v_j
//! - backward: with Δ_i = do_i·o_i and ds_j = p_j·(do_i·v_j − Δ_i) / √D:
//!   dq_i = Σ_j ds_j·k_j, dk_j = Σ_i ds_j·q_i, dv_j = Σ_i p_j·do_i (sums over j's readers, all heads of its group)
//!
//! Query i of packed samples sees its own sample's tokens: where attention is causal those up to i, else all. The backward
//! makes p again from lse, so that only o and lse are kept.

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::cpu::{AttentionShape, attention_backward, attention_cached, attention_forward};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

/// How the columns of q, k and v divide into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Q, a multiple of `kv_heads`.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// D, a multiple of 4, at most [`Shape::MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Whether a query sees no later keys than its own.
    pub causal: bool,
}

impl Shape {
    /// The widest head that the shaders' workgroups can hold.
    pub const MAX_HEAD_DIM: usize = 256;

    fn params(self, tokens: usize, past: usize) -> Params {
        // 64 invocations take 8 rows x 4 numbers of the head each, and rows · cols scores in all.
        let rows = match self.head_dim {
            0..=64 => 32,
            65..=128 => 16,
            _ => 8,
        };
        Params {
            tokens: tokens as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            width: (self.head_dim / 4) as u32,
            rows,
            cols: 2048 / rows,
            past: past as u32,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            causal: self.causal.into(),
        }
    }
}

params! {
    struct Params {
        tokens: u32,
        heads: u32,
        kv_heads: u32,
        width: u32,
        rows: u32,
        cols: u32,
        past: u32,
        scale: f32,
        causal: u32,
    }
}

impl Params {
    fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads as usize,
            kv_heads: self.kv_heads as usize,
            head_dim: self.width as usize * 4,
            causal: self.causal == 1,
        }
    }

    /// 1/√D to the precision of the device.
    fn scale<T: Real>(&self) -> T {
        T::ONE / T::from_f64(f64::from(self.width * 4)).sqrt()
    }

    /// One workgroup for each block of rows of each of `heads` heads.
    fn grid(&self, heads: u32) -> [u32; 3] {
        grid_1d(self.tokens.div_ceil(self.rows) as usize * heads as usize)
    }
}

kernels! { KERNELS of Params:
    FORWARD = "attention"::forward(q: Read, k: Read, v: Read, o: Write, spans: Ids, lse: Write) => forward_cpu;
    GATHER_STATS = "attention_backward"::gather_stats(
        d_o: Read, stats: Write, o: Read, lse: Read
    ) => done_by_backward_kv;
    BACKWARD_Q = "attention_backward"::backward_q(
        d_o: Read, stats_read: Read, q: Read, k: Read, v: Read, spans: Ids, dq: Write
    ) => done_by_backward_kv;
    /// On the CPU this one makes all three gradients in one pass, which spares it making p twice.
    BACKWARD_KV = "attention_backward"::backward_kv(
        d_o: Read, stats_read: Read, q: Read, k: Read, v: Read, spans: Ids, dk: Write, dv: Write, o: CpuRead,
        lse: CpuRead, dq: CpuWrite
    ) => backward_cpu;
    /// Many new tokens over a cache.
    PREFILL = "attention"::prefill(q: Read, k: Read, v: Read, o: Write) => cached_cpu;
    /// Few new tokens over a cache.
    DECODE = "attention_decode"::decode(q: Read, k: Read, v: Read, o: Write) => cached_cpu;
}

/// New tokens from which on a block of queries is taken together.
const PREFILL_FROM: usize = 6;

/// The registry's entry.
pub static OP: Op = Op { name: "attention", kernels: KERNELS, variants: &[&[]], cases };

/// Writes o `[N, Q·D]` and lse `[N, Q]` of packed samples. `spans` `[N, 2]` holds, for each token, the first token of
/// its sample and one past the last; samples lie one after the other.
pub fn forward(rec: &mut Recording, q: &View, k: &View, v: &View, spans: &View, o: &View, lse: &View, shape: Shape) {
    let params = shape.params(spans.len() / 2, 0);
    rec.dispatch(&FORWARD, &params, [q, k, v, o, spans, lse], params.grid(params.heads));
}

/// Writes dq `[N, Q·D]`, dk and dv `[N, K·D]` from what [`forward`] read and wrote and the gradient d_o of o.
/// `stats` `[N, Q, 2]` is scratch.
pub fn backward(
    rec: &mut Recording,
    q: &View,
    k: &View,
    v: &View,
    spans: &View,
    o: &View,
    lse: &View,
    d_o: &View,
    stats: &View,
    dq: &View,
    dk: &View,
    dv: &View,
    shape: Shape,
) {
    let params = shape.params(spans.len() / 2, 0);
    rec.dispatch(&GATHER_STATS, &params, [d_o, stats, o, lse], groups((params.tokens * params.heads) as usize));
    rec.dispatch(&BACKWARD_Q, &params, [d_o, stats, q, k, v, spans, dq], params.grid(params.heads));
    let args = [d_o, stats, q, k, v, spans, dk, dv, o, lse, dq];
    rec.dispatch(&BACKWARD_KV, &params, args, params.grid(params.kv_heads));
}

/// Writes o `[n, Q·D]` of n new tokens of one text: query i sees keys `0..=past + i` of `keys` and `values`
/// `[capacity, K·D]`, which hold the new tokens' own too. Rows beyond those are not read. Always causal.
pub fn cached(rec: &mut Recording, q: &View, keys: &View, values: &View, o: &View, past: usize, shape: Shape) {
    let tokens = q.len() / (shape.heads * shape.head_dim);
    let params = shape.params(tokens, past);
    let (kernel, grid) = if tokens < PREFILL_FROM {
        (&DECODE, grid_1d(tokens * shape.heads))
    } else {
        (&PREFILL, params.grid(params.heads))
    };
    rec.dispatch(kernel, &params, [q, keys, values, o], grid);
}

/// Starts of the samples and, last, N.
fn segments(spans: &[u32]) -> Vec<u32> {
    let tokens = spans.len() as u32 / 2;
    let mut starts = vec![0];
    while let Some(span) = spans.chunks_exact(2).nth(starts[starts.len() - 1] as usize) {
        starts.push(span[1].clamp(starts[starts.len() - 1] + 1, tokens));
    }
    starts
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [q, k, v, o, spans, lse] = call.args();
    attention_forward(
        q.read(),
        k.read(),
        v.read(),
        &segments(spans.ids()),
        params.shape(),
        params.scale(),
        o.write(),
        lse.write(),
    );
}

fn done_by_backward_kv<T: Real>(_call: Call<'_, T>) {}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [d_o, _stats, q, k, v, spans, dk, dv, o, lse, dq] = call.args();
    attention_backward(
        q.read(),
        k.read(),
        v.read(),
        o.read(),
        lse.read(),
        d_o.read(),
        &segments(spans.ids()),
        params.shape(),
        params.scale(),
        dq.write(),
        dk.write(),
        dv.write(),
    );
}

fn cached_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [q, keys, values, o] = call.args();
    attention_cached(
        q.read(),
        keys.read(),
        values.read(),
        params.past as usize,
        params.shape(),
        params.scale(),
        o.write(),
    );
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (lengths, heads, kv_heads, head_dim) in [
        (&[3, 1, 5][..], 2, 1, 12),
        (&[1], 1, 1, 4),
        (&[31, 2], 3, 3, 16),
        (&[33], 4, 2, 64),
        (&[70, 64, 1, 130], 9, 3, 64),
        (&[40, 3], 2, 1, 128),
        (&[10, 11], 2, 2, 80),
        (&[19, 1], 1, 1, 256),
        (&[65, 200, 7], 4, 1, 8),
        (&[14, 9, 11, 16, 1, 20, 2], 12, 12, 32),
    ] {
        for causal in [true, false] {
            cases.push(packed(lengths, Shape { heads, kv_heads, head_dim, causal }));
        }
    }
    for (tokens, past, heads, kv_heads, head_dim) in [
        (1, 0, 1, 1, 4),
        (1, 5, 2, 1, 12),
        (1, 255, 2, 1, 16),
        (1, 256, 9, 3, 64),
        (1, 700, 2, 1, 256),
        (5, 61, 4, 2, 128),
        (6, 0, 2, 1, 16),
        (40, 0, 9, 3, 64),
        (33, 70, 4, 2, 128),
        (9, 300, 1, 1, 256),
    ] {
        let shape = Shape { heads, kv_heads, head_dim, causal: true };
        cases.push(over_cache(tokens, past, shape));
    }
    cases
}

fn packed(lengths: &[usize], shape: Shape) -> Case {
    let tokens: usize = lengths.iter().sum();
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut spans = Vec::new();
    let mut start = 0;
    for length in lengths {
        let end = start + *length as u32;
        spans.extend((start..end).flat_map(|_| [start, end]));
        start = end;
    }
    Case::new(format!("samples of {lengths:?}, {shape:?}"), move |rec, t| {
        forward(rec, t.view("q"), t.view("k"), t.view("v"), t.view("spans"), t.view("o"), t.view("lse"), shape);
    })
    .input("q", &[tokens, q], Fill::Random(2.0))
    .input("k", &[tokens, kv], Fill::Random(2.0))
    .input("v", &[tokens, kv], Fill::Random(1.0))
    .input("spans", &[tokens, 2], Fill::ExactIds(spans))
    .output("o", &[tokens, q])
    .output("lse", &[tokens, shape.heads])
    .upstream("o", "d_o", &[tokens, q])
    .input("stats", &[tokens, shape.heads, 2], Fill::Poison)
    // The first query of a sample sees one key, so its gradient is 0 whatever happens: dq is no good first check.
    .gradient("v", "dv", &[tokens, kv])
    .gradient("k", "dk", &[tokens, kv])
    .gradient("q", "dq", &[tokens, q])
    .backward(move |rec, t| {
        backward(
            rec,
            t.view("q"),
            t.view("k"),
            t.view("v"),
            t.view("spans"),
            t.view("o"),
            t.view("lse"),
            t.view("d_o"),
            t.view("stats"),
            t.view("dq"),
            t.view("dk"),
            t.view("dv"),
            shape,
        );
    })
}

fn over_cache(tokens: usize, past: usize, shape: Shape) -> Case {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (used, capacity) = (past + tokens, past + tokens + 3);
    // What lies beyond the tokens so far must not be read.
    let fill = |frequency: f32| {
        let values = (0..capacity * kv).map(|i| if i < used * kv { (i as f32 * frequency).sin() } else { f32::NAN });
        Fill::Values(values.collect())
    };
    Case::new(format!("{tokens} tokens after {past}, {shape:?}"), move |rec, t| {
        cached(rec, t.view("q"), t.view("keys"), t.view("values"), t.view("o"), past, shape);
    })
    .input("q", &[tokens, q], Fill::Random(2.0))
    .input("keys", &[capacity, kv], fill(0.7))
    .input("values", &[capacity, kv], fill(1.3))
    .output("o", &[tokens, q])
}
