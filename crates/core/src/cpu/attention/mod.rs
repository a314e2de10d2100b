//! Attention with grouped key/value heads over packed segments, forward and backward, and against a cache.

mod backward;
mod cached;
mod forward;
mod reference;

use super::scratch::Output;
use crate::real::Real;

/// How the columns of q, k and v divide into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads, Q: a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads, K. Query head h reads key head h / (Q / K).
    pub kv_heads: usize,
    /// Width of one head, D.
    pub head_dim: usize,
    /// Whether a query sees no later keys than its own.
    pub causal: bool,
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

    fn check(self) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} query heads over {} key heads",
            self.heads,
            self.kv_heads
        );
    }

    /// Tokens in q, after checking it with k and v.
    fn tokens<T>(self, q: &[T], k: &[T], v: &[T], segments: &[u32]) -> usize {
        self.check();
        let n = segments.last().map_or(0, |&end| end as usize);
        assert!(segments.is_sorted(), "segment starts ascend");
        assert_eq!(
            (q.len(), k.len(), v.len()),
            (n * self.q_cols(), n * self.kv_cols(), n * self.kv_cols()),
            "attention lengths for {n} tokens"
        );
        n
    }
}

/// o`[N, Q·D]` = softmax(scale · q·kᵀ)·v over the tokens of a segment, if causal up to and including the query's own;
/// lse`[N, Q]` = ln Σⱼ exp(scale · q·kⱼ), which the backward needs.
///
/// q`[N, Q·D]`, k and v`[N, K·D]`; `segments[S + 1]`: where each begins, the last entry is N. They start at 0.
pub fn attention_forward<T: Real>(
    q: &[T],
    k: &[T],
    v: &[T],
    segments: &[u32],
    shape: AttentionShape,
    scale: T,
    o: &mut [T],
    lse: &mut [T],
) {
    let n = shape.tokens(q, k, v, segments);
    assert_eq!((o.len(), lse.len()), (q.len(), n * shape.heads), "attention output lengths");
    if let (Some(q), Some(k), Some(v), Some(o), Some(lse)) =
        (T::f32s(q), T::f32s(k), T::f32s(v), T::f32s_mut(o), T::f32s_mut(lse))
    {
        let (o, lse) = (Output(o.as_mut_ptr()), Output(lse.as_mut_ptr()));
        let call = forward::Forward { q, k, v, shape, scale: scale.to_f32(), o, lse };
        return forward::forward(call, segments);
    }
    reference::forward(q, k, v, segments, shape, scale, o, lse);
}

/// dq, dk and dv (written, not added to) from what the forward read and wrote, and `d_o`, the gradient of o.
///
/// With p = exp(scale · q·kᵀ − lse) and dp = d_o·vᵀ: ds = p ∘ (dp − Σ d_o ∘ o), dq = scale · ds·k,
/// dk = scale · dsᵀ·q, dv = pᵀ·d_o. p is made again block by block.
pub fn attention_backward<T: Real>(
    q: &[T],
    k: &[T],
    v: &[T],
    o: &[T],
    lse: &[T],
    d_o: &[T],
    segments: &[u32],
    shape: AttentionShape,
    scale: T,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let n = shape.tokens(q, k, v, segments);
    assert_eq!((o.len(), d_o.len(), dq.len()), (q.len(), q.len(), q.len()), "attention gradient lengths");
    assert_eq!((dk.len(), dv.len(), lse.len()), (k.len(), k.len(), n * shape.heads), "attention gradient lengths");
    // Nothing trains an encoder, so that without causality the plain road is good enough.
    if shape.causal
        && let (Some(q), Some(k), Some(v), Some(o), Some(lse), Some(d_o)) =
            (T::f32s(q), T::f32s(k), T::f32s(v), T::f32s(o), T::f32s(lse), T::f32s(d_o))
        && let (Some(dq), Some(dk), Some(dv)) = (T::f32s_mut(dq), T::f32s_mut(dk), T::f32s_mut(dv))
    {
        let call = backward::Backward { q, k, v, o, lse, d_o, shape, scale: scale.to_f32() };
        return backward::backward(call, segments, dq, dk, dv);
    }
    reference::backward(q, k, v, o, lse, d_o, segments, shape, scale, dq, dk, dv);
}

/// o`[n_new, Q·D]` of new tokens at positions `past..past + n_new` against a cache that already holds their keys and
/// values: k and v`[max_len, K·D]`, of which rows `0..past + n_new` are read.
pub fn attention_cached<T: Real>(q: &[T], k: &[T], v: &[T], past: usize, shape: AttentionShape, scale: T, o: &mut [T]) {
    shape.check();
    let n_new = q.len() / shape.q_cols();
    assert_eq!((q.len(), o.len()), (n_new * shape.q_cols(), q.len()), "attention lengths for {n_new} new tokens");
    let used = (past + n_new) * shape.kv_cols();
    assert!(k.len() >= used && v.len() >= used, "a cache for {} tokens", past + n_new);
    if let (Some(q), Some(k), Some(v), Some(o)) = (T::f32s(q), T::f32s(k), T::f32s(v), T::f32s_mut(o)) {
        return cached::cached(q, &k[..used], &v[..used], past, shape, scale.to_f32(), o);
    }
    reference::cached(q, &k[..used], &v[..used], past, shape, scale, o);
}
