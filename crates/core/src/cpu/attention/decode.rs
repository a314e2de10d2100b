//! A few new tokens, each against its own text's keys and values in a cache.

use std::ops::Range;

use super::{AttentionInputs, Region};
use crate::cpu::math::{Cap, ExpSub, Max, get, put};
use crate::cpu::scratch::{Output, Scratch};
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::team;

/// Multiplications below which a second thread costs more than it gives.
const MIN_WORK: usize = 200_000;

/// `place` gives each token's region of the cache and its position there.
pub(super) fn decode(x: AttentionInputs<'_, f32>, place: impl Fn(usize) -> (Region, usize) + Sync, o: &mut [f32]) {
    let shape = x.shape;
    let n = x.q.len() / shape.q_cols();
    let o = Output(o.as_mut_ptr());
    let seen = |position: usize| shape.first_key(0, position + 1)..position + 1;
    let task = |task: usize| {
        let (token, group) = (task / shape.kv_heads, task % shape.kv_heads);
        let (region, position) = place(token);
        dispatch(Row { x, o, token, group, keys: region.rows(seen(position)) });
    };
    let keys: usize = (0..n).map(|token| seen(place(token).1).len()).sum();
    let tasks = 0..n * shape.kv_heads;
    if shape.q_cols() * keys < MIN_WORK {
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
    /// Rows of the keys that the token sees, in order.
    keys: [Range<usize>; 2],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AttentionInputs { q, k, v, shape } = self.x;
        let scale: f32 = shape.scale();
        let (d, kv_cols) = (shape.head_dim, shape.kv_cols());
        let [keys, more] = self.keys.clone();
        let runs = [keys.start, more.start].map(|row| row * kv_cols + self.group * d);
        let mut scratch = Scratch::take(keys.len() + more.len());
        let scores = &mut scratch.floats()[..keys.len() + more.len()];
        for head in self.group * shape.group()..(self.group + 1) * shape.group() {
            let at = self.token * shape.q_cols() + head * d;
            let q = &q[at..at + d];
            let (near, far) = scores.split_at_mut(keys.len());
            for (scores, first) in [near, far].into_iter().zip(runs) {
                for (score, k) in scores.iter_mut().zip(k[first..].chunks(kv_cols)) {
                    let mut sum = s.splat(0.0);
                    for i in (0..d).step_by(S::LANES) {
                        let n = S::LANES.min(d - i);
                        sum = s.mul_add(get(s, q, i, n), get(s, k, i, n), sum);
                    }
                    *score = scale * s.sum(sum);
                }
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
                let (near, far) = scores.split_at(keys.len());
                for (scores, first) in [near, far].into_iter().zip(runs) {
                    for (&p, v) in scores.iter().zip(v[first..].chunks(kv_cols)) {
                        let p = s.splat(p);
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let at = i + j * S::LANES;
                            if at < d {
                                *sum = s.mul_add(p, get(s, v, at, S::LANES.min(d - at)), *sum);
                            }
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
