//! The f32 backward: for a block of keys, all later queries of the segment, their probabilities
//! made again.

use std::ops::Range;

use rayon::prelude::*;

use super::{AttentionInputs, AttentionShape};
use crate::cpu::math::{Dot, exp, get, put, tanh};
use crate::cpu::pack::Right;
use crate::cpu::scratch::{Output, Scratch};
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::tile::{Left, Pack, multiply, packed_len};
use crate::cpu::weight::WeightRef;

/// Keys of a block, and queries of a block: their probabilities stay in the first caches.
const KEYS: usize = 96;
const QUERIES: usize = 64;
/// Queries that go through the tile together, each with its own last key; and keys, each with its
/// own first query.
const STRIP: usize = 8;

/// What all tasks read.
#[derive(Clone, Copy)]
pub(super) struct Backward<'a> {
    pub x: AttentionInputs<'a, f32>,
    pub o: &'a [f32],
    pub lse: &'a [f32],
    pub d_o: &'a [f32],
}

/// Where a head's gradient of the keys or values goes: rows `stride` apart.
#[derive(Clone, Copy)]
struct Rows {
    start: Output,
    stride: usize,
}

impl Rows {
    /// # Safety
    /// Row `row` is there.
    unsafe fn at(self, row: usize) -> *mut f32 {
        // SAFETY: the caller asserts that the row is there.
        unsafe { self.start.0.add(row * self.stride) }
    }
}

/// Tasks are (segment, query head), so that one long sample alone keeps several threads busy. Heads
/// that share keys write their gradients apart, and these are added in the order of the heads.
pub(super) fn backward(call: Backward<'_>, segments: &[u32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let shape = call.x.shape;
    let (heads, d, group) = (shape.heads, shape.head_dim, shape.group());
    let tokens = dq.len() / shape.q_cols().max(1);
    let shared = group > 1;
    let mut by_head = vec![0.0f32; if shared { 2 * dq.len() } else { 0 }];
    let (dk_by_head, dv_by_head) = by_head.split_at_mut(if shared { dq.len() } else { 0 });
    let dq = Output(dq.as_mut_ptr());
    let rows = |of_keys: &mut [f32], by_head: &mut [f32], head: usize| {
        let (start, stride) = if shared {
            (by_head[head * tokens * d..].as_mut_ptr(), d)
        } else {
            (of_keys[head * d..].as_mut_ptr(), shape.kv_cols())
        };
        Rows { start: Output(start), stride }
    };
    if tokens == 0 || d == 0 {
        return;
    }
    let outputs: Vec<(Rows, Rows)> = (0..heads).map(|h| (rows(dk, dk_by_head, h), rows(dv, dv_by_head, h))).collect();
    let count = segments.len() - 1;
    (0..count * heads).into_par_iter().with_max_len(1).for_each(|task| {
        let (segment, head) = (task / heads, task % heads);
        let tokens = segments[segment] as usize..segments[segment + 1] as usize;
        let (dk, dv) = outputs[head];
        call.head(tokens, head, dq, dk, dv);
    });
    if shared {
        for (sum, by_head) in [(dk, &*dk_by_head), (dv, &*dv_by_head)] {
            sum.par_chunks_exact_mut(shape.kv_cols()).with_min_len(64).enumerate().for_each(|(token, sum)| {
                for (g, sum) in sum.chunks_exact_mut(d).enumerate() {
                    let of = |h: usize| &by_head[((g * group + h) * tokens + token) * d..][..d];
                    sum.copy_from_slice(of(0));
                    for h in 1..group {
                        sum.iter_mut().zip(of(h)).for_each(|(sum, x)| *sum += x);
                    }
                }
            });
        }
    }
}

impl Backward<'_> {
    /// One head of one segment.
    fn head(self, tokens: Range<usize>, head: usize, dq: Output, dk: Rows, dv: Rows) {
        let AttentionInputs { q: q_rows, shape, .. } = self.x;
        let scale = shape.scale();
        let AttentionShape { heads, head_dim: d, window, .. } = shape;
        let (q_cols, kv_cols) = (shape.q_cols(), shape.kv_cols());
        let (q_columns, group) = (head * d..(head + 1) * d, head / shape.group());
        let kv_columns = group * d..(group + 1) * d;
        let dense = |x, cols| WeightRef::dense(x, self.lse.len() / heads, cols);
        let (q, d_o) = (dense(q_rows, q_cols), dense(self.d_o, q_cols));
        let (k, v) = (dense(self.x.k, kv_cols), dense(self.x.v, kv_cols));

        let (by_keys, by_width) = (packed_len(d, KEYS), packed_len(KEYS, d));
        let mut scratch = Scratch::take(2 * by_keys + 3 * by_width + 2 * QUERIES * KEYS + tokens.len());
        let mut free = scratch.floats();
        let mut take = |len: usize| {
            let (part, rest) = std::mem::take(&mut free).split_at_mut(len);
            free = rest;
            part
        };
        let (keys_t, values_t, keys) = (take(by_keys), take(by_keys), take(by_width));
        let (queries, d_outputs) = (take(by_width), take(by_width));
        let (p, ds) = (take(QUERIES * KEYS), take(QUERIES * KEYS));
        let delta = take(tokens.len());
        for (delta, i) in delta.iter_mut().zip(tokens.clone()) {
            let at = i * q_cols + head * d..i * q_cols + (head + 1) * d;
            *delta = dispatch(Dot { a: &self.d_o[at.clone()], b: &self.o[at] });
        }
        for i in tokens.clone() {
            // SAFETY: this row of this head is the task's alone.
            unsafe {
                std::slice::from_raw_parts_mut(dk.at(i), d).fill(0.0);
                std::slice::from_raw_parts_mut(dv.at(i), d).fill(0.0);
                // With a window, no block of keys is the first of all queries.
                if window.is_some() {
                    std::slice::from_raw_parts_mut(dq.0.add(i * q_cols + head * d), d).fill(0.0);
                }
            }
        }

        for first in tokens.clone().step_by(KEYS) {
            let block = first..tokens.end.min(first + KEYS);
            let (c, n) = (kv_columns.clone(), block.clone());
            let keys_t = dispatch(Pack { b: Right::Columns(k), k: c.clone(), n: n.clone(), out: keys_t });
            let values_t = dispatch(Pack { b: Right::Columns(v), k: c.clone(), n: n.clone(), out: values_t });
            let keys = dispatch(Pack { b: Right::Rows(k), k: n, n: c, out: keys });
            let end_query = shape.queries(block.end - 1, first, tokens.end).end;
            for start in (first..end_query).step_by(QUERIES) {
                let end = end_query.min(start + QUERIES);
                let (rows, seen) = (end - start, end.min(block.end) - first);
                let (c, t) = (q_columns.clone(), start..end);
                let queries = dispatch(Pack { b: Right::Rows(q), k: t.clone(), n: c.clone(), out: queries });
                let d_outputs = dispatch(Pack { b: Right::Rows(d_o), k: t, n: c, out: d_outputs });
                let beta = if first == tokens.start && window.is_none() { 0.0 } else { 1.0 };
                for strip in (start..end).step_by(STRIP) {
                    let strip = strip..end.min(strip + STRIP);
                    let at = strip.start * q_cols + head * d;
                    let of = (strip.start - start) * KEYS;
                    // Keys of this block that the strip's last row sees.
                    let size = (strip.len(), strip.end.min(block.end) - first, d);
                    let (p, ds) = (&mut p[of..], &mut ds[of..]);
                    // SAFETY: a strip of p and ds is large enough, and this thread's own.
                    unsafe {
                        let (q, d_o) = (&q_rows[at..], &self.d_o[at..]);
                        multiply(size, Left::Rows(q, q_cols), keys_t, p.as_mut_ptr(), KEYS, scale, 0.0);
                        multiply(size, Left::Rows(d_o, q_cols), values_t, ds.as_mut_ptr(), KEYS, 1.0, 0.0);
                    }
                    dispatch(Slope {
                        p,
                        ds,
                        lse: &self.lse[strip.start * heads + head..],
                        heads,
                        delta: &delta[strip.start - tokens.start..strip.end - tokens.start],
                        sees: strip.start + 1 - first,
                        window: window.unwrap_or(usize::MAX),
                        seen,
                        scale,
                        cap: shape.cap,
                    });
                    // SAFETY: these rows of this head are the task's alone.
                    unsafe {
                        multiply((strip.len(), d, size.1), Left::Rows(ds, KEYS), keys, dq.0.add(at), q_cols, 1.0, beta);
                    }
                }
                for key in (0..seen).step_by(STRIP) {
                    // Queries before the strip's first key see none of its keys.
                    let skip = (first + key).saturating_sub(start);
                    let size = (STRIP.min(seen - key), d, rows - skip);
                    let of = skip * KEYS + key;
                    let (p, ds) = (Left::Columns(&p[of..], KEYS), Left::Columns(&ds[of..], KEYS));
                    let (d_outputs, queries) = (d_outputs.skip(skip), queries.skip(skip));
                    // SAFETY: these rows of this head are the task's alone.
                    unsafe {
                        multiply(size, p, d_outputs, dv.at(first + key), dv.stride, 1.0, 1.0);
                        multiply(size, ds, queries, dk.at(first + key), dk.stride, 1.0, 1.0);
                    }
                }
            }
        }
    }
}

/// Of a strip: scores become probabilities p, and dp becomes scale · p · (dp − δ); both 0 where a
/// row does not see.
struct Slope<'a> {
    /// Rows of KEYS, as `ds`.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    /// Of each row, `heads` apart.
    lse: &'a [f32],
    heads: usize,
    delta: &'a [f32],
    /// Keys of the block that the first row sees; each row sees one more, as far as the block goes.
    sees: usize,
    /// Keys that a row sees at most.
    window: usize,
    /// Keys of the block that any of these queries sees.
    seen: usize,
    scale: f32,
    cap: Option<f32>,
}

impl Kernel for Slope<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.scale);
        for (row, &delta) in self.delta.iter().enumerate() {
            let p = &mut self.p[row * KEYS..][..self.seen];
            let ds = &mut self.ds[row * KEYS..][..self.seen];
            let sees = (self.sees + row).min(self.seen);
            let from = (self.sees + row).saturating_sub(self.window).min(sees);
            let (lse, delta) = (s.splat(self.lse[row * self.heads]), s.splat(delta));
            for at in (from..sees).step_by(S::LANES) {
                let n = S::LANES.min(sees - at);
                let (mut score, mut steep) = (get(s, p, at, n), scale);
                if let Some(cap) = self.cap {
                    let tanh = tanh(s, s.mul(score, s.splat(1.0 / cap)));
                    score = s.mul(s.splat(cap), tanh);
                    steep = s.mul(scale, s.sub(s.splat(1.0), s.mul(tanh, tanh)));
                }
                let probability = exp(s, s.sub(score, lse));
                let slope = s.mul(s.mul(steep, probability), s.sub(get(s, ds, at, n), delta));
                put(s, p, at, n, probability);
                put(s, ds, at, n, slope);
            }
            for row in [p, ds] {
                row[..from].fill(0.0);
                row[sees..].fill(0.0);
            }
        }
    }
}
