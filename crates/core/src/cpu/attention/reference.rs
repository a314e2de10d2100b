//! Attention as the formulas say it, a row of scores at a time: what the fast version and the
//! shaders are compared with.

use rayon::prelude::*;

use super::{AttentionInputs, AttentionOutputs, Region};
use crate::real::Real;

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn add_scaled<T: Real>(y: &mut [T], x: &[T], scale: T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x * scale;
    }
}

/// The start and the end of each token's segment.
fn token_segments(segments: &[u32]) -> Vec<(usize, usize)> {
    let ranges = segments.windows(2).map(|w| (w[0] as usize, w[1] as usize));
    ranges.flat_map(|(start, end)| std::iter::repeat_n((start, end), end - start)).collect()
}

/// Head `h` of token `t` in a matrix whose rows hold `heads` heads.
fn head<T>(x: &[T], t: usize, heads: usize, h: usize, dim: usize) -> &[T] {
    &x[(t * heads + h) * dim..][..dim]
}

/// One token's output over the keys in these rows, and its log-sum-exp per head.
fn row<T: Real>(
    x: AttentionInputs<'_, T>,
    q: &[T],
    keys: impl Iterator<Item = usize> + Clone,
    o: &mut [T],
    lse: &mut [T],
) {
    let (s, d, scale) = (x.shape, x.shape.head_dim, x.shape.scale::<T>());
    for ((h, o), lse) in o.chunks_exact_mut(d).enumerate().zip(lse) {
        let (q, g) = (&q[h * d..(h + 1) * d], h / s.group());
        let scores: Vec<T> = keys.clone().map(|j| s.capped(scale * dot(q, head(x.k, j, s.kv_heads, g, d))).0).collect();
        let max = scores.iter().copied().fold(T::NEG_INFINITY, T::max);
        let sum: T = scores.iter().map(|&x| (x - max).exp()).sum();
        *lse = max + sum.ln();
        o.fill(T::ZERO);
        for (j, &score) in keys.clone().zip(&scores) {
            add_scaled(o, head(x.v, j, s.kv_heads, g, d), (score - *lse).exp());
        }
    }
}

pub(super) fn forward<T: Real>(x: AttentionInputs<'_, T>, segments: &[u32], o: &mut [T], lse: &mut [T]) {
    let s = x.shape;
    let rows = x.q.par_chunks_exact(s.q_cols()).zip(o.par_chunks_exact_mut(s.q_cols()));
    rows.zip(lse.par_chunks_exact_mut(s.heads)).zip(token_segments(segments)).enumerate().for_each(
        |(i, (((q, o), lse), (start, end)))| {
            row(x, q, s.keys(i, start, end), o, lse);
        },
    );
}

/// `place` gives each token's region of the cache and its position there.
pub(super) fn cached<T: Real>(x: AttentionInputs<'_, T>, place: impl Fn(usize) -> (Region, usize) + Sync, o: &mut [T]) {
    let s = x.shape;
    let rows = x.q.par_chunks_exact(s.q_cols()).zip(o.par_chunks_exact_mut(s.q_cols()));
    rows.enumerate().for_each(|(i, (q, o))| {
        let mut lse = vec![T::ZERO; s.heads];
        let (region, position) = place(i);
        let keys = region.rows(s.first_key(0, position + 1)..position + 1);
        row(x, q, keys.into_iter().flatten(), o, &mut lse);
    });
}

pub(super) fn backward<T: Real>(
    x: AttentionInputs<'_, T>,
    y: AttentionOutputs<'_, T>,
    segments: &[u32],
    [dq, dk, dv]: [&mut [T]; 3],
) {
    let AttentionInputs { q, k, v, shape: s } = x;
    let scale: T = s.scale();
    let (heads, kv_heads, d) = (s.heads, s.kv_heads, s.head_dim);
    let ranges = token_segments(segments);
    // p and ds of query i against key j in query head h.
    let p_ds = |i: usize, j: usize, h: usize| {
        let g = h / s.group();
        let (q, d_o, o) = (head(q, i, heads, h, d), head(y.d_o, i, heads, h, d), head(y.o, i, heads, h, d));
        let (score, slope) = s.capped(scale * dot(q, head(k, j, kv_heads, g, d)));
        let p = (score - y.lse[i * heads + h]).exp();
        (p, p * (dot(d_o, head(v, j, kv_heads, g, d)) - dot(d_o, o)) * slope)
    };
    dq.par_chunks_exact_mut(s.q_cols()).zip(&ranges).enumerate().for_each(|(i, (dq, &(start, end)))| {
        dq.fill(T::ZERO);
        for (h, dq) in dq.chunks_exact_mut(d).enumerate() {
            for j in s.keys(i, start, end) {
                add_scaled(dq, head(k, j, kv_heads, h / s.group(), d), scale * p_ds(i, j, h).1);
            }
        }
    });
    let keys = dk.par_chunks_exact_mut(s.kv_cols()).zip(dv.par_chunks_exact_mut(s.kv_cols()));
    keys.zip(&ranges).enumerate().for_each(|(j, ((dk, dv), &(start, end)))| {
        dk.fill(T::ZERO);
        dv.fill(T::ZERO);
        for (g, (dk, dv)) in dk.chunks_exact_mut(d).zip(dv.chunks_exact_mut(d)).enumerate() {
            for h in g * s.group()..(g + 1) * s.group() {
                for i in s.queries(j, start, end) {
                    let (p, ds) = p_ds(i, j, h);
                    add_scaled(dk, head(q, i, heads, h, d), scale * ds);
                    add_scaled(dv, head(y.d_o, i, heads, h, d), p);
                }
            }
        }
    });
}
