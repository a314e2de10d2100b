//! The f32 forward: strips of queries against blocks of keys, with the softmax kept up as blocks
//! come in.

use std::ops::Range;

use rayon::prelude::*;

use super::{AttentionInputs, AttentionShape};
use crate::cpu::math::{Cap, ExpSub, Max};
use crate::cpu::pack::Right;
use crate::cpu::scratch::{Output, Scratch};
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::tile::{Left, Pack, multiply, packed_len};
use crate::cpu::weight::WeightRef;

/// Queries of a task: enough to pay for packing the keys they see.
const QUERIES: usize = 256;
/// Queries that go through the tile together, each with its own last key.
const STRIP: usize = 8;
/// Keys of a block, whose packed keys and values stay in the second cache.
const KEYS: usize = 384;

/// What all tasks read, and where they write.
#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub x: AttentionInputs<'a, f32>,
    /// Key j lies in row j mod this.
    pub span: usize,
    pub o: Output,
    pub lse: Output,
}

/// A run of queries and the keys they see: query row i sees the key rows `first_key..=i + ahead`,
/// as far as `last_key`, one past the last, and where there is a window the last ones of them.
#[derive(Clone)]
struct Span {
    queries: Range<usize>,
    first_key: usize,
    last_key: usize,
    ahead: usize,
}

/// Whole segments.
pub(super) fn forward(call: Forward<'_>, segments: &[u32]) {
    let mut spans = Vec::new();
    for segment in segments.windows(2) {
        let tokens = segment[0] as usize..segment[1] as usize;
        let ahead = call.x.shape.ahead(tokens.len());
        split(call.x.shape, tokens.clone(), tokens, ahead, &mut spans);
    }
    run(call, &spans);
}

/// Queries that stand `past` rows further on in the keys.
pub(super) fn continued(call: Forward<'_>, queries: usize, past: usize) {
    let mut spans = Vec::new();
    split(call.x.shape, 0..queries, 0..queries + past, past, &mut spans);
    run(call, &spans);
}

fn split(shape: AttentionShape, queries: Range<usize>, keys: Range<usize>, ahead: usize, spans: &mut Vec<Span>) {
    for start in queries.clone().step_by(QUERIES) {
        let end = queries.end.min(start + QUERIES);
        let first_key = shape.first_key(keys.start, start + ahead + 1);
        spans.push(Span { queries: start..end, first_key, last_key: keys.end.min(end + ahead), ahead });
    }
}

fn run(call: Forward<'_>, spans: &[Span]) {
    let groups = call.x.shape.kv_heads;
    // The last queries of a segment see most: they begin first.
    (0..spans.len() * groups)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| call.span(spans[spans.len() - 1 - task / groups].clone(), task % groups));
}

impl Forward<'_> {
    /// One group of heads.
    fn span(self, span: Span, group: usize) {
        let AttentionInputs { q, k, v, shape } = self.x;
        let scale = shape.scale();
        let AttentionShape { heads, head_dim: d, .. } = shape;
        let per_group = shape.group();
        let (q_cols, kv_cols) = (shape.q_cols(), shape.kv_cols());
        let last_key = span.last_key;
        let rows = last_key.min(self.span);
        let keys = WeightRef::dense(&k[..rows * kv_cols], rows, kv_cols);
        let values = WeightRef::dense(&v[..rows * kv_cols], rows, kv_cols);
        let columns = group * d..(group + 1) * d;

        let states = per_group * span.queries.len();
        let (keys_len, values_len) = (packed_len(d, KEYS), packed_len(KEYS, d));
        let mut scratch = Scratch::take(keys_len + values_len + STRIP * KEYS + 2 * states);
        let (packed_keys, rest) = scratch.floats().split_at_mut(keys_len);
        let (packed_values, rest) = rest.split_at_mut(values_len);
        let (scores, rest) = rest.split_at_mut(STRIP * KEYS);
        let (max, sum) = rest[..2 * states].split_at_mut(states);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);

        let mut first = span.first_key;
        while first < last_key {
            // A block also ends where the rows begin again.
            let row = first % self.span;
            let block = first..last_key.min(first + KEYS.min(self.span - row));
            let rows = row..row + block.len();
            let (b, n) = (Right::Columns(keys), rows.clone());
            let keys_t = dispatch(Pack { b, k: columns.clone(), n, out: packed_keys });
            let (b, k) = (Right::Rows(values), rows);
            let values = dispatch(Pack { b, k, n: columns.clone(), out: packed_values });
            for (h, start) in strips(per_group, &span.queries) {
                let rows = STRIP.min(span.queries.end - start);
                // Keys of this block that the last row sees.
                let seen = (start + rows + span.ahead).min(block.end).saturating_sub(first);
                // The first key that the strip sees: blocks before it are not read, and its own is
                // the first.
                let strip_first = shape.first_key(span.first_key, start + span.ahead + 1);
                if seen == 0 || block.end <= strip_first {
                    continue;
                }
                let fresh = strip_first >= first;
                let at = start * q_cols + (group * per_group + h) * d;
                let state = h * span.queries.len() + start - span.queries.start;
                // SAFETY: these rows and this head of o are the task's alone; a strip of scores is
                // its own.
                unsafe {
                    let o = self.o.0.add(at);
                    let a = Left::Rows(&q[at..], q_cols);
                    multiply((rows, seen, d), a, keys_t, scores.as_mut_ptr(), KEYS, scale, 0.0);
                    if let Some(cap) = shape.cap {
                        scores.chunks_exact_mut(KEYS).take(rows).for_each(|x| dispatch(Cap { x: &mut x[..seen], cap }));
                    }
                    dispatch(Soften {
                        scores,
                        seen,
                        first,
                        first_row_end: start + span.ahead + 1,
                        sight: shape.sight().unwrap_or(usize::MAX),
                        max: &mut max[state..state + rows],
                        sum: &mut sum[state..state + rows],
                        o,
                        o_stride: q_cols,
                        width: if fresh { 0 } else { d },
                    });
                    let beta = if fresh { 0.0 } else { 1.0 };
                    multiply((rows, d, seen), Left::Rows(scores, KEYS), values, o, q_cols, 1.0, beta);
                }
            }
            first = block.end;
        }
        for (h, start) in strips(per_group, &span.queries) {
            for row in start..span.queries.end.min(start + STRIP) {
                let state = h * span.queries.len() + row - span.queries.start;
                let head = group * per_group + h;
                // SAFETY: this row and this head of o and lse are the task's alone.
                unsafe {
                    let o = std::slice::from_raw_parts_mut(self.o.0.add(row * q_cols + head * d), d);
                    let factor = 1.0 / sum[state];
                    o.iter_mut().for_each(|o| *o *= factor);
                    *self.lse.0.add(row * heads + head) = max[state] + sum[state].ln();
                }
            }
        }
    }
}

/// The strips of every head: (head in its group, first query).
fn strips(heads: usize, queries: &Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    (0..heads).flat_map(|h| queries.clone().step_by(STRIP).map(move |start| (h, start)))
}

/// Scores of a strip become exp(score − max), where the maximum and the sum go over all blocks so
/// far; what o already holds is brought to a new maximum.
struct Soften<'a> {
    /// Rows of KEYS.
    scores: &'a mut [f32],
    /// Keys of the block that the last row sees.
    seen: usize,
    /// The block's first key.
    first: usize,
    /// The key before which the first row's sight ends; each row sees one more.
    first_row_end: usize,
    /// Keys that a row sees at most.
    sight: usize,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    o: *mut f32,
    o_stride: usize,
    /// Columns of o: 0 while it holds nothing.
    width: usize,
}

impl Kernel for Soften<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.max.len();
        for (row, scores) in self.scores.chunks_exact_mut(KEYS).enumerate().take(rows) {
            let end = self.first_row_end + row;
            let sees = end.saturating_sub(self.first).min(self.seen);
            let from = end.saturating_sub(self.sight).saturating_sub(self.first).min(sees);
            scores[..from].fill(0.0);
            scores[sees..self.seen].fill(0.0);
            let seen = &mut scores[from..sees];
            if seen.is_empty() {
                continue;
            }
            let max = Max { x: seen }.run(s).max(self.max[row]);
            let sum = ExpSub { x: seen, max }.run(s);
            let shrink = (self.max[row] - max).exp();
            self.sum[row] = self.sum[row] * shrink + sum;
            self.max[row] = max;
            if shrink != 1.0 {
                for i in 0..self.width {
                    // SAFETY: the strip's rows of o are the task's alone.
                    unsafe { *self.o.add(row * self.o_stride + i) *= shrink };
                }
            }
        }
    }
}
