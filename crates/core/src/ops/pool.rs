//! A vector for each sample of a packed batch, from its tokens' hidden states.
//!
//! With x `[N, cols]`, y `[S, cols]` and the n tokens t of a sample s:
//! - mean: y[s] = Σ_t x[t] / n, dx[t] = dy[s] / n
//! - first or last token: y[s] = x[t'], dx[t'] = dy[s], and 0 for the others
//!
//! Every sample has a token: the caller has seen to that.

use bft_formats::Pooling;
use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        samples: u32,
        cols: u32,
        kind: u32,
    }
}

impl Params {
    /// Of a sample's tokens, those that count.
    fn counted(&self, segment: &[u32]) -> std::ops::Range<usize> {
        let (first, end) = (segment[0] as usize, segment[1] as usize);
        match self.kind {
            1 => first..end.min(first + 1),
            2 => end.saturating_sub(1).max(first)..end,
            _ => first..end,
        }
    }
}

kernels! { KERNELS of Params:
    FORWARD = "pool"::forward(segments: Ids, x: Read, y: Write) => forward_cpu;
    BACKWARD = "pool"::backward(segments: Ids, dy: Read, dx: Write) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "pool", kernels: KERNELS, variants: &[&[]], cases };

/// y `[S, cols]` of x `[N, cols]`. `segments` `[S + 1]` holds where each sample starts, and N.
pub fn forward(rec: &mut Recording, segments: &View, x: &View, y: &View, cols: usize, pooling: Pooling) {
    let params = params(segments, cols, pooling);
    rec.dispatch(&FORWARD, &params, [segments, x, y], groups(y.len()));
}

/// dx `[N, cols]` of dy `[S, cols]`.
pub fn backward(rec: &mut Recording, segments: &View, dy: &View, dx: &View, cols: usize, pooling: Pooling) {
    let params = params(segments, cols, pooling);
    rec.dispatch(&BACKWARD, &params, [segments, dy, dx], groups(dy.len()));
}

fn params(segments: &View, cols: usize, pooling: Pooling) -> Params {
    Params {
        samples: segments.len() as u32 - 1,
        cols: cols as u32,
        kind: match pooling {
            Pooling::Mean => 0,
            Pooling::Cls => 1,
            Pooling::Last => 2,
        },
    }
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let cols = params.cols as usize;
    let [segments, x, y] = call.args();
    let x = x.read();
    y.write().par_chunks_exact_mut(cols).zip(segments.ids().par_windows(2)).with_min_len(16).for_each(
        |(y, segment)| {
            let tokens = params.counted(segment);
            let count = T::from_f64(tokens.len() as f64);
            y.fill(T::ZERO);
            for x in x[tokens.start * cols..tokens.end * cols].chunks_exact(cols) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
            }
            y.iter_mut().for_each(|y| *y /= count);
        },
    );
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let cols = params.cols as usize;
    let [segments, dy, dx] = call.args();
    let dx = dx.write();
    for (segment, dy) in segments.ids().windows(2).zip(dy.read().chunks_exact(cols)) {
        let tokens = params.counted(segment);
        let count = T::from_f64(tokens.len() as f64);
        dx[segment[0] as usize * cols..segment[1] as usize * cols].fill(T::ZERO);
        for dx in dx[tokens.start * cols..tokens.end * cols].chunks_exact_mut(cols) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = *dy / count);
        }
    }
}

fn cases() -> Vec<Case> {
    let case = |pooling: Pooling, lengths: &'static [u32], cols: usize| {
        let starts = lengths.iter().scan(0, |at, length| {
            *at += length;
            Some(*at)
        });
        let segments: Vec<u32> = [0].into_iter().chain(starts).collect();
        let (tokens, samples) = (segments[lengths.len()] as usize, lengths.len());
        Case::new(format!("{pooling:?} of {lengths:?} x {cols}"), move |rec, t| {
            let (segments, x, y) = (t.view("segments"), t.view("x"), t.view("y"));
            forward(rec, segments, x, y, cols, pooling);
        })
        .input("segments", &[segments.len()], Fill::ExactIds(segments))
        .input("x", &[tokens, cols], Fill::Random(1.0))
        .output("y", &[samples, cols])
        .upstream("y", "dy", &[samples, cols])
        .gradient("x", "dx", &[tokens, cols])
        .backward(move |rec, t| {
            let (segments, dy, dx) = (t.view("segments"), t.view("dy"), t.view("dx"));
            backward(rec, segments, dy, dx, cols, pooling);
        })
    };
    vec![
        case(Pooling::Mean, &[1], 1),
        case(Pooling::Mean, &[3, 1, 70], 65),
        case(Pooling::Cls, &[3, 1, 7], 20),
        case(Pooling::Last, &[3, 1, 7], 20),
        case(Pooling::Mean, &[14; 33], 384),
    ]
}
