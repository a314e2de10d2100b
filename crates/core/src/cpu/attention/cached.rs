//! New tokens against a cache of keys and values.

use std::ops::Range;

use super::AttentionInputs;
use super::forward::{Forward, continued};
use crate::cpu::math::{Cap, ExpSub, Max, get, put};
use crate::cpu::scratch::{Output, Scratch};
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::team;

/// New tokens from which on they are worth a tile.
const MIN_TILE: usize = 4;
/// Multiplications below which a second thread costs more than it gives.
const MIN_WORK: usize = 200_000;

pub(super) fn cached(x: AttentionInputs<'_, f32>, past: usize, o: &mut [f32]) {
    let shape = x.shape;
    let n = x.q.len() / shape.q_cols();
    let o = Output(o.as_mut_ptr());
    if n >= MIN_TILE {
        let mut lse = vec![0.0; n * shape.heads];
        let lse = Output(lse.as_mut_ptr());
        return continued(Forward { x, o, lse }, n, past);
    }
    let task = |task: usize| {
        let (token, group) = (task / shape.kv_heads, task % shape.kv_heads);
        let end = past + token + 1;
        dispatch(Row { x, o, token, group, keys: shape.first_key(0, end)..end });
    };
    let tasks = 0..n * shape.kv_heads;
    if n * shape.q_cols() * (past + n - shape.first_key(0, past + n)) < MIN_WORK {
        tasks.for_each(task);
    } else {
        team::for_each(tasks.len(), task);
    }
}

/// One token and one group of heads.
struct Row<'a> {
    x: AttentionInputs<'a, f32>,
    o: Output,
    token: usize,
    group: usize,
    keys: Range<usize>,
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionInputs { q, k, v, shape } = self.x;
        let scale: f32 = shape.scale();
        let (d, kv_cols) = (shape.head_dim, shape.kv_cols());
        let first = self.keys.start * kv_cols + self.group * d;
        let mut scratch = Scratch::take(self.keys.len());
        let scores = &mut scratch.floats()[..self.keys.len()];
        for head in self.group * shape.group()..(self.group + 1) * shape.group() {
            let at = self.token * shape.q_cols() + head * d;
            let q = &q[at..at + d];
            for (score, k) in scores.iter_mut().zip(k[first..].chunks(kv_cols)) {
                let mut sum = s.splat(0.0);
                for i in (0..d).step_by(S::LANES) {
                    let n = S::LANES.min(d - i);
                    sum = s.mul_add(get(s, q, i, n), get(s, k, i, n), sum);
                }
                *score = scale * s.sum(sum);
            }
            if let Some(cap) = shape.cap {
                Cap { x: scores, cap }.run(s);
            }
            let max = Max { x: scores }.run(s);
            let total = ExpSub { x: scores, max }.run(s);
            let total = s.splat(1.0 / total);
            // SAFETY: this head of this token is the task's alone.
            let o = unsafe { std::slice::from_raw_parts_mut(self.o.0.add(at), d) };
            // Four vectors of values at a time, so that one addition need not wait for the last.
            for i in (0..d).step_by(4 * S::LANES) {
                let mut sums = [s.splat(0.0); 4];
                for (&p, v) in scores.iter().zip(v[first..].chunks(kv_cols)) {
                    let p = s.splat(p);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let at = i + j * S::LANES;
                        if at < d {
                            *sum = s.mul_add(p, get(s, v, at, S::LANES.min(d - at)), *sum);
                        }
                    }
                }
                for (j, &sum) in sums.iter().enumerate() {
                    let at = i + j * S::LANES;
                    if at < d {
                        put(s, o, at, S::LANES.min(d - at), s.mul(sum, total));
                    }
                }
            }
        }
    }
}
