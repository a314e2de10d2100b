//! The f32 backward: for a block of keys, all later queries of the segment, their probabilities
//! made again.

use std::ops::Range;

use rayon::prelude::*;

use super::{AttentionInputs, AttentionShape};
use crate::cpu::math::{Dot, exp, get, put, tanh};
use crate::cpu::pack::Right;
use crate::cpu::scratch::{Output, Scratch};
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::tile::{Left, Pack, Packed, multiply, packed_len};
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
        Task { call, tokens, head, dq, dk, dv }.run();
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

/// One head of one segment.
struct Task<'a> {
    call: Backward<'a>,
    tokens: Range<usize>,
    head: usize,
    dq: Output,
    dk: Rows,
    dv: Rows,
}

/// A block of keys and values, packed for the products that read them.
struct Block<'a> {
    keys: Range<usize>,
    k_t: Packed<'a>,
    v_t: Packed<'a>,
    k: Packed<'a>,
}

impl Task<'_> {
    fn run(&self) {
        let (x, shape, tokens) = (self.call.x, self.call.x.shape, self.tokens.clone());
        let d = shape.head_dim;
        let kv_head = self.head / shape.group();
        let (q_columns, kv_columns) = (self.head * d..(self.head + 1) * d, kv_head * d..(kv_head + 1) * d);
        let dense = |x, cols| WeightRef::dense(x, self.call.lse.len() / shape.heads, cols);
        let (q, d_o) = (dense(x.q, shape.q_cols()), dense(self.call.d_o, shape.q_cols()));
        let (k, v) = (dense(x.k, shape.kv_cols()), dense(x.v, shape.kv_cols()));

        let (by_keys, by_width) = (packed_len(d, KEYS), packed_len(KEYS, d));
        let mut scratch = Scratch::take(2 * by_keys + 3 * by_width + 2 * QUERIES * KEYS + tokens.len());
        let mut free = scratch.floats();
        let mut take = |len: usize| {
            let (part, rest) = std::mem::take(&mut free).split_at_mut(len);
            free = rest;
            part
        };
        let (k_t, v_t, k_rows) = (take(by_keys), take(by_keys), take(by_width));
        let (queries, d_outputs) = (take(by_width), take(by_width));
        let (p, ds) = (take(QUERIES * KEYS), take(QUERIES * KEYS));
        let delta = take(tokens.len());
        self.begin(delta);

        for first in tokens.clone().step_by(KEYS) {
            let keys = first..tokens.end.min(first + KEYS);
            let (c, n) = (kv_columns.clone(), keys.clone());
            let block = Block {
                k_t: dispatch(Pack { b: Right::Columns(k), k: c.clone(), n: n.clone(), out: k_t }),
                v_t: dispatch(Pack { b: Right::Columns(v), k: c.clone(), n: n.clone(), out: v_t }),
                k: dispatch(Pack { b: Right::Rows(k), k: n, n: c, out: k_rows }),
                keys,
            };
            let end_query = shape.queries(block.keys.end - 1, first, tokens.end).end;
            for start in (first..end_query).step_by(QUERIES) {
                let (c, t) = (q_columns.clone(), start..end_query.min(start + QUERIES));
                let queries = dispatch(Pack { b: Right::Rows(q), k: t.clone(), n: c.clone(), out: queries });
                let d_outputs = dispatch(Pack { b: Right::Rows(d_o), k: t.clone(), n: c, out: d_outputs });
                self.slopes(&block, t.clone(), delta, p, ds);
                self.add_to_keys(&block, t, [queries, d_outputs], p, ds);
            }
        }
    }

    /// δ = dO · O of each token; and zeros where gradients are added to.
    fn begin(&self, delta: &mut [f32]) {
        let AttentionShape { head_dim: d, window, .. } = self.call.x.shape;
        let q_cols = self.call.x.shape.q_cols();
        for (delta, i) in delta.iter_mut().zip(self.tokens.clone()) {
            let at = i * q_cols + self.head * d..i * q_cols + (self.head + 1) * d;
            *delta = dispatch(Dot { a: &self.call.d_o[at.clone()], b: &self.call.o[at.clone()] });
            // SAFETY: this row of this head is the task's alone.
            unsafe {
                std::slice::from_raw_parts_mut(self.dk.at(i), d).fill(0.0);
                std::slice::from_raw_parts_mut(self.dv.at(i), d).fill(0.0);
                // With a window, no block of keys is the first of all queries.
                if window.is_some() {
                    std::slice::from_raw_parts_mut(self.dq.0.add(at.start), d).fill(0.0);
                }
            }
        }
    }

    /// p and ds, rows of KEYS, of some queries against a block of keys; and their share of dq.
    fn slopes(&self, block: &Block<'_>, queries: Range<usize>, delta: &[f32], p: &mut [f32], ds: &mut [f32]) {
        let Backward { x: AttentionInputs { q, shape, .. }, lse, d_o, .. } = self.call;
        let AttentionShape { heads, head_dim: d, window, cap, .. } = shape;
        let (q_cols, scale, first) = (shape.q_cols(), shape.scale(), block.keys.start);
        let seen = seen(block, &queries);
        let beta = if first == self.tokens.start && window.is_none() { 0.0 } else { 1.0 };
        for start in queries.clone().step_by(STRIP) {
            let strip = start..queries.end.min(start + STRIP);
            let at = start * q_cols + self.head * d;
            let of = (start - queries.start) * KEYS;
            // Keys of this block that the strip's last row sees.
            let size = (strip.len(), strip.end.min(block.keys.end) - first, d);
            let (p, ds) = (&mut p[of..], &mut ds[of..]);
            // SAFETY: a strip of p and ds is large enough, and this thread's own.
            unsafe {
                multiply(size, Left::Rows(&q[at..], q_cols), block.k_t, p.as_mut_ptr(), KEYS, scale, 0.0);
                multiply(size, Left::Rows(&d_o[at..], q_cols), block.v_t, ds.as_mut_ptr(), KEYS, 1.0, 0.0);
            }
            dispatch(Slope {
                p,
                ds,
                lse: &lse[start * heads + self.head..],
                heads,
                delta: &delta[start - self.tokens.start..strip.end - self.tokens.start],
                sees: start + 1 - first,
                window: window.unwrap_or(usize::MAX),
                seen,
                scale,
                cap,
            });
            let size = (size.0, d, size.1);
            // SAFETY: these rows of this head are the task's alone.
            unsafe { multiply(size, Left::Rows(ds, KEYS), block.k, self.dq.0.add(at), q_cols, 1.0, beta) };
        }
    }

    /// dk += dsᵀ · q and dv += pᵀ · do, of some queries, whose q and do are packed.
    fn add_to_keys(&self, block: &Block<'_>, queries: Range<usize>, [q, d_o]: [Packed<'_>; 2], p: &[f32], ds: &[f32]) {
        let (first, d, seen) = (block.keys.start, self.call.x.shape.head_dim, seen(block, &queries));
        for key in (0..seen).step_by(STRIP) {
            // Queries before the strip's first key see none of its keys.
            let skip = (first + key).saturating_sub(queries.start);
            let size = (STRIP.min(seen - key), d, queries.len() - skip);
            let of = skip * KEYS + key;
            let (p, ds) = (Left::Columns(&p[of..], KEYS), Left::Columns(&ds[of..], KEYS));
            // SAFETY: these rows of this head are the task's alone.
            unsafe {
                multiply(size, p, d_o.skip(skip), self.dv.at(first + key), self.dv.stride, 1.0, 1.0);
                multiply(size, ds, q.skip(skip), self.dk.at(first + key), self.dk.stride, 1.0, 1.0);
            }
        }
    }
}

/// Keys of a block that any of the queries sees.
fn seen(block: &Block<'_>, queries: &Range<usize>) -> usize {
    queries.end.min(block.keys.end) - block.keys.start
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
