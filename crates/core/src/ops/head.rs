//! The head's softmax over a vocabulary that is visited once, in chunks of columns, and the
//! gradient of its input.
//!
//! With logits l = h·Wᵀ of a row h `[H]`, label y and W `[V, H]`, a row keeps, over the chunks seen
//! so far,
//! - m = max l_v (the label's included), s = Σ_{v≠y} exp(l_v − m), l_y,
//! - acc `[H]` = Σ_{v≠y} exp(l_v − m)·W_v, to which the caller adds each chunk's product (exp(l −
//!   m) `[R, C]`)·W, after [`rescale`] has multiplied it by exp(m_old − m).
//!
//! With Z = s + exp(l_y − m) this gives, without a second sweep and without a difference of nearly
//! equal numbers,
//! - log p = (l_y − m) − ln Z
//! - the gradient of c·(−log p): dh = c·(Σ_v p_v·W_v − W_y) = c·(acc/Z − (s/Z)·W_y).
//!
//! c is known only after the sweep (it depends on p), and is a scalar of each row: that is why one
//! sweep is enough.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::cpu;
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        rows: u32,
        cols: u32,
        first: u32,
        vocab: u32,
    }
}

/// Numbers of a row's state: m, s, l_y, exp(m_old − m).
pub const STATE: usize = 4;

/// Stands for no logit seen so far: exp of any distance to it is 0, and no distance to it is
/// infinite.
const NONE: f64 = -1e30;

kernels! { KERNELS of Params:
    BEGIN = "head"::begin(state: ReadWrite) => begin_cpu;
    ONLINE_SOFTMAX = "head"::online_softmax(state: ReadWrite, logits: ReadWrite, labels: Ids) => online_softmax_cpu;
    RESCALE = "head"::rescale(state_read: Read, acc: ReadWrite) => rescale_cpu;
    LOG_PROB = "head"::log_prob(state_read: Read, log_p: Write) => log_prob_cpu;
    GRADIENT = "head"::gradient(
        state_read: Read, acc_read: Read, coefficients: Read, targets: Read, dh: Write
    ) => gradient_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "head", kernels: KERNELS, variants: &[&[]], cases };

fn params(rows: usize, cols: usize, first: usize, vocab: usize) -> Params {
    Params { rows: rows as u32, cols: cols as u32, first: first as u32, vocab: vocab as u32 }
}

/// Sets the state `[R, 4]` to that of a sweep that has seen no column. The caller clears its
/// accumulator.
pub fn begin(rec: &mut Recording, state: &View) {
    let rows = state.len() / STATE;
    rec.dispatch(&BEGIN, &params(rows, 0, 0, 0), [state], groups(rows));
}

/// Takes the logits `[R, C]` of vocabulary columns `first..first + C` into the state `[R, 4]`, and
/// turns them into exp(l − m), 0 in the label's column and in those from `vocab` on, which only pad
/// the last chunk. `labels` `[R]` are ids in the whole vocabulary.
pub fn online_softmax(rec: &mut Recording, logits: &View, labels: &View, state: &View, first: usize, vocab: usize) {
    let rows = labels.len();
    rec.dispatch(
        &ONLINE_SOFTMAX,
        &params(rows, logits.len() / rows.max(1), first, vocab),
        [state, logits, labels],
        grid_1d(rows),
    );
}

/// acc `[R, H]` *= exp(m_old − m) of its row, to be called between [`online_softmax`] and adding
/// the chunk's product.
pub fn rescale(rec: &mut Recording, acc: &View, state: &View, hidden: usize) {
    let rows = state.len() / STATE;
    rec.dispatch(&RESCALE, &params(rows, hidden, 0, 0), [state, acc], groups(rows * hidden));
}

/// log_p `[R]` of the labels, from the state after the last chunk.
pub fn log_prob(rec: &mut Recording, state: &View, log_p: &View) {
    let rows = log_p.len();
    rec.dispatch(&LOG_PROB, &params(rows, 0, 0, 0), [state, log_p], groups(rows));
}

/// dh `[R, H]` = c·(acc/Z − (s/Z)·W_y), with c of each row in `coefficients` `[R]` and W_y in
/// `targets` `[R, H]`.
pub fn gradient(
    rec: &mut Recording,
    acc: &View,
    state: &View,
    coefficients: &View,
    targets: &View,
    dh: &View,
    hidden: usize,
) {
    let rows = coefficients.len();
    rec.dispatch(
        &GRADIENT,
        &params(rows, hidden, 0, 0),
        [state, acc, coefficients, targets, dh],
        groups(rows * hidden),
    );
}

fn begin_cpu<T: Real>(call: Call<'_, T>) {
    let [state] = call.args();
    let none = T::from_f64(NONE);
    for row in state.write().chunks_exact_mut(STATE) {
        row.copy_from_slice(&[none, T::ZERO, none, T::ZERO]);
    }
}

fn online_softmax_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [state, logits, labels] = call.args();
    let (state, logits, labels) = (state.write(), logits.write(), labels.ids());
    let rows = state.par_chunks_exact_mut(STATE).zip(logits.par_chunks_exact_mut(params.cols as usize)).zip(labels);
    rows.for_each(|((state, logits), label)| {
        let label =
            label.checked_sub(params.first).filter(|label| *label < params.cols.min(params.vocab - params.first));
        let columns = params.cols.min(params.vocab - params.first) as usize;
        let (logits, padding) = logits.split_at_mut(columns);
        padding.fill(T::ZERO);
        if let Some(label) = label {
            state[2] = logits[label as usize];
        }
        let m = cpu::max(logits).max(state[0]);
        // The label stays out of the sum rather than being taken off it: beside a sure label
        // nothing would be left.
        if let Some(label) = label {
            logits[label as usize] = T::NEG_INFINITY;
        }
        let sum = cpu::exp_sub_sum(logits, m);
        if let Some(label) = label {
            logits[label as usize] = T::ZERO;
        }
        state[3] = (state[0] - m).exp();
        state[1] = state[1] * state[3] + sum;
        state[0] = m;
    });
}

fn rescale_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [state, acc] = call.args();
    let rows = acc.write().par_chunks_exact_mut(params.cols as usize).zip(state.read().par_chunks_exact(STATE));
    rows.with_min_len(16).for_each(|(acc, state)| {
        for value in acc {
            *value *= state[3];
        }
    });
}

fn log_prob_cpu<T: Real>(call: Call<'_, T>) {
    let [state, log_p] = call.args();
    for (log_p, state) in log_p.write().iter_mut().zip(state.read().chunks_exact(STATE)) {
        let (s, margin) = (state[1], state[2] - state[0]);
        let e_y = margin.exp();
        *log_p = if s < e_y { -(s / e_y).ln_1p() } else { margin - (s + e_y).ln() };
    }
}

fn gradient_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let hidden = params.cols as usize;
    let [state, acc, coefficients, targets, dh] = call.args();
    let rows = dh
        .write()
        .par_chunks_exact_mut(hidden)
        .zip(acc.read().par_chunks_exact(hidden))
        .zip(targets.read().par_chunks_exact(hidden))
        .zip(state.read().par_chunks_exact(STATE))
        .zip(coefficients.read());
    rows.with_min_len(16).for_each(|((((dh, acc), target), state), c)| {
        let s = state[1];
        let z = s + (state[2] - state[0]).exp();
        for ((dh, acc), target) in dh.iter_mut().zip(acc).zip(target) {
            *dh = *c * (*acc / z - s / z * *target);
        }
    });
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, cols, scale) in [(1, 1, 1.0), (1, 7, 80.0), (3, 63, 80.0), (5, 64, 1.0), (65, 65, 5.0), (2, 4099, 30.0)]
    {
        // Two chunks, of which some rows have their label in the first, some in the second, some in
        // none.
        let label = format!("{rows} rows of 2 x {cols} logits within {scale}");
        cases.push(
            Case::new(label, move |rec, t| {
                let (state, labels) = (t.view("state"), t.view("labels"));
                begin(rec, state);
                online_softmax(rec, t.view("one"), labels, state, 0, 2 * cols);
                online_softmax(rec, t.view("two"), labels, state, cols, 2 * cols);
                log_prob(rec, state, t.view("log_p"));
            })
            .input("one", &[rows, cols], Fill::Random(scale))
            .input("two", &[rows, cols], Fill::Random(scale))
            .input("labels", &[rows], Fill::Ids(2 * cols as u32))
            .updates("one")
            .updates("two")
            .output("state", &[rows, STATE])
            .output("log_p", &[rows]),
        );
    }
    cases.push(
        Case::new("labels that no chunk holds, and a padded chunk", |rec, t| {
            begin(rec, t.view("state"));
            online_softmax(rec, t.view("logits"), t.view("labels"), t.view("state"), 10, 13);
        })
        .input("logits", &[4, 5], Fill::Random(2.0))
        .input("labels", &[4], Fill::ExactIds(vec![0, 9, 13, 12]))
        .input("state", &[4, STATE], Fill::Poison)
        .updates("logits"),
    );
    // The label nearly sure: log p must keep its digits where 1 − p is far below the precision of
    // 1.
    cases.push(
        Case::new("log p near 0", |rec, t| {
            log_prob(rec, t.view("state"), t.view("log_p"));
        })
        .input("state", &[3, STATE], Fill::Values(vec![5.0, 1e-12, 5.0, 0.0, 5.0, 3e-12, 5.0, 0.0, 5.0, 0.0, 5.0, 0.0]))
        .output("log_p", &[3]),
    );
    for (rows, hidden) in [(1, 1), (3, 21), (2, 64), (33, 576)] {
        cases.push(
            Case::new(format!("gradient of {rows} rows of {hidden}"), move |rec, t| {
                rescale(rec, t.view("acc"), t.view("state"), hidden);
                gradient(
                    rec,
                    t.view("acc"),
                    t.view("state"),
                    t.view("coefficients"),
                    t.view("targets"),
                    t.view("dh"),
                    hidden,
                );
            })
            .input("state", &[rows, STATE], Fill::Between(0.2, 2.0))
            .input("acc", &[rows, hidden], Fill::Random(2.0))
            .input("coefficients", &[rows], Fill::Random(1.0))
            .input("targets", &[rows, hidden], Fill::Random(1.0))
            .updates("acc")
            .output("dh", &[rows, hidden]),
        );
    }
    cases
}
