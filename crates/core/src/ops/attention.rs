//! Attention with grouped key and value heads, over packed samples or a cache, never making `[N,
//! N]` scores.
//!
//! q, o `[N, Q·D]`, k, v `[N, K·D]`; query head h reads key head ⌊h / (Q/K)⌋. For a query i and the
//! keys j it sees, with s_j = q_i·k_j / √D:
//! - forward: lse_i = ln Σ_j exp s_j, p_j = exp(s_j − lse_i), o_i = Σ_j p_j·v_j
//! - backward: with Δ_i = do_i·o_i and ds_j = p_j·(do_i·v_j − Δ_i) / √D: dq_i = Σ_j ds_j·k_j, dk_j
//!   = Σ_i ds_j·q_i, dv_j = Σ_i p_j·do_i (sums over j's readers, all heads of its group)
//!
//! Query i of packed samples sees its own sample's tokens: where attention is causal those up to i,
//! else all. A window w leaves of these the keys j with i − w < j < i + w, as transformers counts
//! it. A cap c makes scores c·tanh(s / c), and ds that times 1 − tanh². The backward makes p again
//! from lse, so that only o and lse are kept.

use super::case::{Case, Fill, Tensors as Views};
use super::{Op, groups};
pub use crate::cpu::AttentionShape as Shape;
use crate::cpu::{
    AttentionInputs, AttentionOutputs, attention_backward, attention_cached, attention_decode, attention_forward,
};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

impl Shape {
    fn params(self, tokens: usize) -> Params {
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
            past: 0,
            scale: self.scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt()),
            causal: self.causal.into(),
            window: self.window.map_or(u32::MAX, |window| window as u32),
            scaled: self.scale.is_some().into(),
            cap: self.cap.unwrap_or(0.0),
            span: u32::MAX,
        }
    }
}

/// What a pass over packed samples reads and writes forward; all but o and lse are inputs.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[N, Q·D]`
    pub q: &'a View,
    /// `[N, K·D]`
    pub k: &'a View,
    /// `[N, K·D]`
    pub v: &'a View,
    /// `[N, 2]`: for each token the first token of its sample and one past the last; samples lie
    /// one after the other.
    pub spans: &'a View,
    /// `[N, Q·D]`
    pub o: &'a View,
    /// `[N, Q]` log-sum-exp of each query's scores.
    pub lse: &'a View,
}

/// Keys and values of earlier tokens and of the new ones.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// `[rows, K·D]`
    pub keys: &'a View,
    /// `[rows, K·D]`
    pub values: &'a View,
    /// Rows of one text: its position p lies in row p mod span. As many as all queries of a call
    /// see together, at least.
    pub span: usize,
}

/// The gradient of o, and where those of q, k and v go.
#[derive(Debug, Clone, Copy)]
pub struct Gradients<'a> {
    /// `[N, Q·D]`, read.
    pub d_o: &'a View,
    /// `[N, Q, 2]`, scratch.
    pub stats: &'a View,
    /// `[N, Q·D]`
    pub dq: &'a View,
    /// `[N, K·D]`
    pub dk: &'a View,
    /// `[N, K·D]`
    pub dv: &'a View,
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
        window: u32,
        scaled: u32,
        cap: f32,
        span: u32,
    }
}

impl Params {
    fn shape(&self) -> Shape {
        Shape {
            heads: self.heads as usize,
            kv_heads: self.kv_heads as usize,
            head_dim: self.width as usize * 4,
            causal: self.causal == 1,
            window: (self.window != u32::MAX).then_some(self.window as usize),
            scale: (self.scaled == 1).then_some(self.scale),
            cap: (self.cap != 0.0).then_some(self.cap),
        }
    }

    /// What the CPU's kernels read.
    fn inputs<'a, T: Real>(&self, q: &'a [T], k: &'a [T], v: &'a [T]) -> AttentionInputs<'a, T> {
        AttentionInputs { q, k, v, shape: self.shape() }
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
    /// Many new tokens of one text over a cache.
    PREFILL = "attention"::prefill(q: Read, k: Read, v: Read, o: Write) => prefill_cpu;
    /// Few new tokens of one text, or of several.
    DECODE = "attention_decode"::decode(q: Read, k: Read, v: Read, o: Write, places: Ids) => decode_cpu;
}

/// New tokens of one text from which on [`prefill`] is faster than [`decode`].
pub const PREFILL_FROM: usize = 6;

/// The registry's entry.
pub static OP: Op = Op { name: "attention", kernels: KERNELS, variants: &[&[]], cases };

/// Writes o and lse of packed samples.
pub fn forward(rec: &mut Recording, t: Tensors<'_>, shape: Shape) {
    let params = shape.params(t.spans.len() / 2);
    rec.dispatch(&FORWARD, &params, [t.q, t.k, t.v, t.o, t.spans, t.lse], params.grid(params.heads));
}

/// Writes dq, dk and dv from what [`forward`] read and wrote and the gradient of o.
pub fn backward(rec: &mut Recording, t: Tensors<'_>, g: Gradients<'_>, shape: Shape) {
    let params = shape.params(t.spans.len() / 2);
    let all = groups((params.tokens * params.heads) as usize);
    rec.dispatch(&GATHER_STATS, &params, [g.d_o, g.stats, t.o, t.lse], all);
    let args = [g.d_o, g.stats, t.q, t.k, t.v, t.spans, g.dq];
    rec.dispatch(&BACKWARD_Q, &params, args, params.grid(params.heads));
    let args = [g.d_o, g.stats, t.q, t.k, t.v, t.spans, g.dk, g.dv, t.o, t.lse, g.dq];
    rec.dispatch(&BACKWARD_KV, &params, args, params.grid(params.kv_heads));
}

/// Writes o `[n, Q·D]` of n new tokens of one text: query i sees positions `0..=past + i`, or as
/// many of the last of them as the window holds. The cache is that text's alone and holds the new
/// tokens' own keys and values too. Rows beyond those are not read. Always causal.
pub fn prefill(rec: &mut Recording, q: &View, cached: Cached<'_>, o: &View, past: usize, shape: Shape) {
    let tokens = q.len() / (shape.heads * shape.head_dim);
    let params = Params { past: past as u32, span: cached.span as u32, ..shape.params(tokens) };
    rec.dispatch(&PREFILL, &params, [q, cached.keys, cached.values, o], params.grid(params.heads));
}

/// As [`prefill`], of n new tokens of whichever texts: position p of the text in slot s lies in row
/// s·span + p mod span. `places` `[n, 2]` are each token's slot and position.
pub fn decode(rec: &mut Recording, q: &View, cached: Cached<'_>, places: &View, o: &View, shape: Shape) {
    let tokens = places.len() / 2;
    let params = Params { span: cached.span as u32, ..shape.params(tokens) };
    rec.dispatch(&DECODE, &params, [q, cached.keys, cached.values, o, places], grid_1d(tokens * shape.heads));
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
    attention_forward(params.inputs(q.read(), k.read(), v.read()), &segments(spans.ids()), o.write(), lse.write());
}

fn done_by_backward_kv<T: Real>(_call: Call<'_, T>) {}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [d_o, _stats, q, k, v, spans, dk, dv, o, lse, dq] = call.args();
    attention_backward(
        params.inputs(q.read(), k.read(), v.read()),
        AttentionOutputs { o: o.read(), lse: lse.read(), d_o: d_o.read() },
        &segments(spans.ids()),
        [dq.write(), dk.write(), dv.write()],
    );
}

fn prefill_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [q, keys, values, o] = call.args();
    let inputs = params.inputs(q.read(), keys.read(), values.read());
    attention_cached(inputs, params.past as usize, params.span as usize, o.write());
}

fn decode_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [q, keys, values, o, places] = call.args();
    let inputs = params.inputs(q.read(), keys.read(), values.read());
    let (places, _) = places.ids().as_chunks();
    attention_decode(inputs, places, params.span as usize, o.write());
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
        let (scale, cap) = ((head_dim == 16).then_some(0.3), (head_dim == 12 || head_dim == 128).then_some(2.0));
        let shape = Shape { heads, kv_heads, head_dim, causal: true, window: None, scale, cap };
        for causal in [true, false] {
            for window in [None, Some(2), Some(20), Some(64)] {
                // A query that sees one key has a gradient of 0, beside which any rounding is
                // large.
                if window.is_none() || lengths != [1] {
                    cases.push(packed(lengths, Shape { causal, window, ..shape }));
                }
            }
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
        let cap = (head_dim == 12 || head_dim == 128).then_some(2.0);
        for window in [None, Some(1), Some(50)] {
            let shape = Shape { heads, kv_heads, head_dim, causal: true, window, scale: None, cap };
            let all = past + tokens + 3;
            cases.push(over_cache(tokens, past, all, shape));
            // Just the rows that are seen, so that positions go over the region's end; and some more.
            let seen = window.unwrap_or(all) - 1 + tokens;
            for span in [seen, seen + 2].into_iter().filter(|span| *span < past + tokens) {
                cases.push(over_cache(tokens, past, span, shape));
            }
        }
    }
    for window in [None, Some(7), Some(300)] {
        let shape = Shape { heads: 4, kv_heads: 2, head_dim: 64, causal: true, window, scale: None, cap: None };
        cases.push(in_slots(&[[0, 0]], 1, shape));
        cases.push(in_slots(&[[2, 5], [0, 299], [1, 0]], 320, shape));
        cases.push(in_slots(&[[4, 650], [3, 90], [0, 301], [5, 5], [1, 411], [7, 7]], window.unwrap_or(651), shape));
    }
    cases
}

fn tensors(t: &Views) -> Tensors<'_> {
    Tensors {
        q: t.view("q"),
        k: t.view("k"),
        v: t.view("v"),
        spans: t.view("spans"),
        o: t.view("o"),
        lse: t.view("lse"),
    }
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
    let case = Case::new(format!("samples of {lengths:?}, {shape:?}"), move |rec, t| {
        forward(rec, tensors(t), shape);
    })
    .input("q", &[tokens, q], Fill::Random(2.0))
    .input("k", &[tokens, kv], Fill::Random(2.0))
    .input("v", &[tokens, kv], Fill::Random(1.0))
    .input("spans", &[tokens, 2], Fill::ExactIds(spans))
    .output("o", &[tokens, q])
    .output("lse", &[tokens, shape.heads])
    .upstream("o", "d_o", &[tokens, q])
    .input("stats", &[tokens, shape.heads, 2], Fill::Poison)
    // The first query of a sample sees one key, so its gradient is 0 whatever happens: dq is no
    // good first check.
    .gradient("v", "dv", &[tokens, kv]);
    // Where every token is alone, its softmax is 1 whatever q and k are: their gradients are 0 but
    // for rounding, which no two devices do alike.
    let case = if lengths.iter().all(|length| *length == 1) {
        case.input("dk", &[tokens, kv], Fill::Poison).input("dq", &[tokens, q], Fill::Poison)
    } else {
        case.gradient("k", "dk", &[tokens, kv]).gradient("q", "dq", &[tokens, q])
    };
    case.backward(move |rec, t| {
        let gradients = Gradients {
            d_o: t.view("d_o"),
            stats: t.view("stats"),
            dq: t.view("dq"),
            dk: t.view("dk"),
            dv: t.view("dv"),
        };
        backward(rec, tensors(t), gradients, shape);
    })
}

/// What a cache `[rows, K·D]` holds: numbers in the rows that are seen, for no other may be read.
fn held(rows: usize, kv: usize, seen: &[usize], frequency: f32) -> Fill {
    let mut values = vec![f32::NAN; rows * kv];
    for row in seen {
        let at = row * kv..(row + 1) * kv;
        values[at.clone()].iter_mut().zip(at).for_each(|(value, i)| *value = (i as f32 * frequency).sin());
    }
    Fill::Values(values)
}

/// The first position that the query at a position sees.
fn first_seen(position: usize, shape: Shape) -> usize {
    shape.window.map_or(0, |window| (position + 1).saturating_sub(window))
}

fn over_cache(tokens: usize, past: usize, span: usize, shape: Shape) -> Case {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let seen: Vec<usize> = (first_seen(past, shape)..past + tokens).map(|position| position % span).collect();
    let places: Vec<u32> = (past..past + tokens).flat_map(|position| [0, position as u32]).collect();
    let label = format!("{tokens} tokens after {past} in {span} rows, {shape:?}");
    let case = Case::new(label, move |rec, t| {
        let cached = Cached { keys: t.view("keys"), values: t.view("values"), span };
        if tokens < PREFILL_FROM {
            decode(rec, t.view("q"), cached, t.view("places"), t.view("o"), shape);
        } else {
            prefill(rec, t.view("q"), cached, t.view("o"), past, shape);
        }
    });
    case.input("q", &[tokens, q], Fill::Random(2.0))
        .input("keys", &[span, kv], held(span, kv, &seen, 0.7))
        .input("values", &[span, kv], held(span, kv, &seen, 1.3))
        .input("places", &[tokens, 2], Fill::ExactIds(places))
        .output("o", &[tokens, q])
}

/// One new token in each of some slots.
fn in_slots(places: &[[u32; 2]], span: usize, shape: Shape) -> Case {
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let slots = places.iter().map(|[slot, _]| *slot as usize + 1).max().unwrap_or(1);
    let seen = |[slot, position]: &[u32; 2]| {
        let (slot, position) = (*slot as usize, *position as usize);
        (first_seen(position, shape)..=position).map(move |position| slot * span + position % span)
    };
    let seen: Vec<usize> = places.iter().flat_map(seen).collect();
    let tokens = places.len();
    Case::new(format!("slots and positions {places:?} in {span} rows each, {shape:?}"), move |rec, t| {
        let cached = Cached { keys: t.view("keys"), values: t.view("values"), span };
        decode(rec, t.view("q"), cached, t.view("places"), t.view("o"), shape);
    })
    .input("q", &[tokens, q], Fill::Random(2.0))
    .input("keys", &[slots * span, kv], held(slots * span, kv, &seen, 0.7))
    .input("values", &[slots * span, kv], held(slots * span, kv, &seen, 1.3))
    .input("places", &[tokens, 2], Fill::ExactIds(places.concat()))
    .output("o", &[tokens, q])
}
