//! Attention with grouped key/value heads over packed segments, forward and backward, and against a
//! cache.

mod backward;
mod decode;
mod forward;
mod reference;

use std::ops::Range;

use super::scratch::Output;
use crate::real::Real;

/// How the columns of q, k and v divide into heads, and which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, Q: a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads, K. Query head h reads key head h / (Q / K).
    pub kv_heads: usize,
    /// Width of one head, D: a multiple of 4, at most [`bft_formats::MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Whether a query sees no later keys than its own.
    pub causal: bool,
    /// Keys that a query sees at most to each side, its own among them: key j of query i where i −
    /// window < j < i + window.
    pub window: Option<usize>,
    /// What scores are multiplied by; 1/√D where it is `None`.
    pub scale: Option<f32>,
    /// Scores s become cap·tanh(s / cap).
    pub cap: Option<f32>,
}

/// What one call of attention reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a, T> {
    /// `[N, Q·D]`
    pub q: &'a [T],
    /// `[N, K·D]`, or `[capacity, K·D]` of a cache.
    pub k: &'a [T],
    /// As `k`.
    pub v: &'a [T],
    /// How columns divide into heads.
    pub shape: AttentionShape,
}

impl AttentionShape {
    fn q_cols(self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_cols(self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// The keys of `start..end` that a query sees.
    fn keys(self, query: usize, start: usize, end: usize) -> Range<usize> {
        let window = self.window.unwrap_or(usize::MAX);
        let last = if self.causal { query + 1 } else { query.saturating_add(window) };
        start.max((query + 1).saturating_sub(window))..end.min(last)
    }

    /// The queries of `start..end` that see a key.
    fn queries(self, key: usize, start: usize, end: usize) -> Range<usize> {
        let window = self.window.unwrap_or(usize::MAX);
        let first = if self.causal { key } else { (key + 1).saturating_sub(window) };
        start.max(first)..end.min(key.saturating_add(window))
    }

    /// How many keys behind its own the last one is that a query sees, where a text has so many.
    fn ahead(self, tokens: usize) -> usize {
        if self.causal { 0 } else { self.window.map_or(tokens, |window| tokens.min(window - 1)) }
    }

    /// The first of the keys from `start` on that the query sees whose last key is before `end`,
    /// where the text has so many.
    fn first_key(self, start: usize, end: usize) -> usize {
        self.sight().map_or(start, |keys| start.max(end.saturating_sub(keys)))
    }

    /// Keys that a query sees at most.
    fn sight(self) -> Option<usize> {
        self.window.map(|window| if self.causal { window } else { window.saturating_mul(2) - 1 })
    }

    /// What scores are multiplied by, to the precision of T.
    fn scale<T: Real>(self) -> T {
        self.scale.map_or_else(|| T::ONE / T::from_f64(self.head_dim as f64).sqrt(), T::from_f32)
    }

    /// A score behind its cap, and the slope of that.
    fn capped<T: Real>(self, score: T) -> (T, T) {
        let Some(cap) = self.cap.map(T::from_f32) else { return (score, T::ONE) };
        let two = T::ONE + T::ONE;
        let tanh = T::ONE - two / ((two * score / cap).exp() + T::ONE);
        (cap * tanh, T::ONE - tanh * tanh)
    }

    fn check(self) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} query heads over {} key heads",
            self.heads,
            self.kv_heads
        );
        assert!(self.window != Some(0), "{self:?}");
    }
}

impl<'a, T: Real> AttentionInputs<'a, T> {
    /// Tokens in q, after checking it with k and v.
    fn tokens(&self, segments: &[u32]) -> usize {
        self.shape.check();
        let n = segments.last().map_or(0, |&end| end as usize);
        assert!(segments.is_sorted(), "segment starts ascend");
        let (q_len, kv_len) = (n * self.shape.q_cols(), n * self.shape.kv_cols());
        assert_eq!(
            (self.q.len(), self.k.len(), self.v.len()),
            (q_len, kv_len, kv_len),
            "attention lengths for {n} tokens"
        );
        n
    }

    /// The same, where T is f32.
    fn f32s(&self) -> Option<AttentionInputs<'a, f32>> {
        let (q, k, v) = (T::f32s(self.q)?, T::f32s(self.k)?, T::f32s(self.v)?);
        Some(AttentionInputs { q, k, v, shape: self.shape })
    }
}

/// o`[N, Q·D]` = softmax(scale · q·kᵀ)·v over the tokens of a segment that a query sees;
/// lse`[N, Q]` = ln Σⱼ exp(scale · q·kⱼ), which the backward needs.
///
/// `segments[S + 1]`: where each begins, the last entry is N. They start at 0.
pub fn attention_forward<T: Real>(x: AttentionInputs<'_, T>, segments: &[u32], o: &mut [T], lse: &mut [T]) {
    let n = x.tokens(segments);
    assert_eq!((o.len(), lse.len()), (x.q.len(), n * x.shape.heads), "attention output lengths");
    if let (Some(x), Some(o), Some(lse)) = (x.f32s(), T::f32s_mut(o), T::f32s_mut(lse)) {
        let (o, lse) = (Output(o.as_mut_ptr()), Output(lse.as_mut_ptr()));
        return forward::forward(forward::Forward { x, span: usize::MAX, o, lse }, segments);
    }
    reference::forward(x, segments, o, lse);
}

/// What the backward of attention reads beside the forward's inputs.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOutputs<'a, T> {
    /// `[N, Q·D]`, written by the forward.
    pub o: &'a [T],
    /// `[N, Q]`, written by the forward.
    pub lse: &'a [T],
    /// `[N, Q·D]`, the gradient of o.
    pub d_o: &'a [T],
}

/// dq, dk and dv (written, not added to) from what the forward read and wrote, and `d_o`, the
/// gradient of o.
///
/// With p = exp(scale · q·kᵀ − lse) and dp = d_o·vᵀ: ds = p ∘ (dp − Σ d_o ∘ o), dq = scale · ds·k,
/// dk = scale · dsᵀ·q, dv = pᵀ·d_o. p is made again block by block.
pub fn attention_backward<T: Real>(
    x: AttentionInputs<'_, T>,
    y: AttentionOutputs<'_, T>,
    segments: &[u32],
    [dq, dk, dv]: [&mut [T]; 3],
) {
    let (n, q, k) = (x.tokens(segments), x.q.len(), x.k.len());
    assert_eq!((y.o.len(), y.d_o.len(), dq.len()), (q, q, q), "attention gradient lengths");
    assert_eq!((dk.len(), dv.len(), y.lse.len()), (k, k, n * x.shape.heads), "attention gradient lengths");
    // Nothing trains an encoder, so that without causality the plain way is good enough.
    if x.shape.causal
        && let (Some(x), Some(o), Some(lse), Some(d_o)) = (x.f32s(), T::f32s(y.o), T::f32s(y.lse), T::f32s(y.d_o))
        && let (Some(dq), Some(dk), Some(dv)) = (T::f32s_mut(dq), T::f32s_mut(dk), T::f32s_mut(dv))
    {
        return backward::backward(backward::Backward { x, o, lse, d_o }, segments, dq, dk, dv);
    }
    reference::backward(x, y, segments, [dq, dk, dv]);
}

/// The rows of a cache that hold one text: position p lies in row `first + p mod span`.
#[derive(Clone, Copy, Debug)]
struct Region {
    first: usize,
    span: usize,
}

impl Region {
    /// The rows of these positions in order, at most `span` of them: one run, and a second one
    /// where they go on at the region's beginning.
    fn rows(self, positions: Range<usize>) -> [Range<usize>; 2] {
        let start = positions.start % self.span;
        let before_end = positions.len().min(self.span - start);
        let first = self.first + start;
        [first..first + before_end, self.first..self.first + positions.len() - before_end]
    }
}

/// o`[n, Q·D]` of new tokens at positions `past..past + n` of one text, against a cache that
/// already holds their keys and values: k and v`[rows, K·D]`, where position p lies in row p mod
/// `span`. Rows of positions that no query sees are not read.
pub fn attention_cached<T: Real>(x: AttentionInputs<'_, T>, past: usize, span: usize, o: &mut [T]) {
    let shape = x.shape;
    shape.check();
    let n = x.q.len() / shape.q_cols();
    assert_eq!((x.q.len(), o.len()), (n * shape.q_cols(), x.q.len()), "attention lengths for {n} new tokens");
    let seen = past + n - shape.first_key(0, past + 1);
    assert!(span >= seen, "{seen} positions are seen in a region of {span} rows");
    let rows = span.min(past + n) * shape.kv_cols();
    assert!(x.k.len() >= rows && x.v.len() >= rows, "a cache for {} tokens", past + n);
    if let (Some(x), Some(o)) = (x.f32s(), T::f32s_mut(o)) {
        let mut lse = vec![0.0; n * shape.heads];
        let (o, lse) = (Output(o.as_mut_ptr()), Output(lse.as_mut_ptr()));
        return forward::continued(forward::Forward { x, span, o, lse }, n, past);
    }
    let place = |i: usize| (Region { first: 0, span }, past + i);
    reference::cached(x, place, o);
}

/// o`[n, Q·D]` of a new token each of n texts, or of few tokens of one, whose places are (slot,
/// position): each sees the positions of its slot up to its own. k and v`[slots · span, K·D]`, where
/// position p of slot s lies in row s·`span` + p mod `span`. Each row of o depends on its own query
/// and slot alone, to the bit.
pub fn attention_decode<T: Real>(x: AttentionInputs<'_, T>, places: &[[u32; 2]], span: usize, o: &mut [T]) {
    let shape = x.shape;
    shape.check();
    let q_len = places.len() * shape.q_cols();
    assert_eq!((x.q.len(), o.len()), (q_len, q_len), "attention lengths for {} tokens", places.len());
    for [slot, position] in places {
        let end = *position as usize + 1;
        assert!(span >= end - shape.first_key(0, end), "position {position} in a region of {span} rows");
        let rows = (*slot as usize * span + span.min(end)) * shape.kv_cols();
        assert!(x.k.len() >= rows && x.v.len() >= rows, "position {position} of slot {slot}");
    }
    let place = |i: usize| {
        let [slot, position] = places[i].map(|number| number as usize);
        (Region { first: slot * span, span }, position)
    };
    if let (Some(x), Some(o)) = (x.f32s(), T::f32s_mut(o)) {
        return decode::decode(x, place, o);
    }
    reference::cached(x, place, o);
}
