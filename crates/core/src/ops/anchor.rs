//! An anchor of a tuned model to its base: KL(q ‖ p) of the next token, with q the base's
//! probabilities and p the tuned model's, and its gradient.
//!
//! Logits are h·W_v, so that q need not be kept, `[V]` numbers of each token: with E = Σ_v q_v·W_v
//! `[H]`, which the head's sweep has gathered,
//! - Σ q·ln q = h_base·E − ln Z_base, and Σ q·ln p = h·E − ln Z; KL is the one less the other,
//! - the gradient of k·KL with respect to h is k·(Σ_v p_v·W_v − E).
//!
//! A head that caps its logits has none that are h·W_v: it cannot be anchored so.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::head::STATE;
use super::{Op, groups};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        rows: u32,
        hidden: u32,
        weight: f32,
    }
}

kernels! { KERNELS of Params:
    REMEMBER = "anchor"::remember(
        state: Read, acc: Read, targets: Read, hidden: Read, mean: Write, entropy: Write
    ) => remember_cpu;
    DIVERGE = "anchor"::diverge(
        state: Read, mean_read: Read, hidden_tuned: Read, entropy_read: Read, divergence: Write
    ) => diverge_cpu;
    ADD_UP = "anchor"::add_up(divergence_read: Read, totals: ReadWrite) => add_up_cpu;
    PULL = "anchor"::pull(
        state: Read, acc: Read, targets: Read, mean_base: Read, dh: ReadWrite
    ) => pull_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "anchor", kernels: KERNELS, variants: &[&[]], cases };

/// What the head's sweep leaves of a model: `state` `[R, 4]`, `acc` `[R, H]` and the rows of W of
/// the right tokens, `targets` `[R, H]`.
#[derive(Debug, Clone, Copy)]
pub struct Swept<'v> {
    /// `[R, 4]`
    pub state: &'v View,
    /// `[R, H]`
    pub acc: &'v View,
    /// `[R, H]`
    pub targets: &'v View,
}

/// What is kept of the base.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'v> {
    /// E `[R, H]`
    pub mean: &'v View,
    /// Σ q·ln q `[R]`
    pub entropy: &'v View,
}

fn params(state: &View, hidden: &View, weight: f32) -> Params {
    let rows = state.len() / STATE;
    Params { rows: rows as u32, hidden: (hidden.len() / rows.max(1)) as u32, weight }
}

/// Writes what is kept of the base, whose normalised rows are `hidden` `[R, H]`.
pub fn remember(rec: &mut Recording, base: Swept<'_>, hidden: &View, kept: Kept<'_>) {
    let params = params(base.state, hidden, 0.0);
    let operands = [base.state, base.acc, base.targets, hidden, kept.mean, kept.entropy];
    rec.dispatch(&REMEMBER, &params, operands, grid_1d(params.rows as usize));
}

/// Writes KL of each row to `divergence` `[R]` and adds `weight` times their sum to the loss, the
/// first of `totals`; `hidden` `[R, H]` are the tuned model's normalised rows.
pub fn diverge(
    rec: &mut Recording,
    state: &View,
    hidden: &View,
    kept: Kept<'_>,
    divergence: &View,
    totals: &View,
    weight: f32,
) {
    let params = params(state, hidden, weight);
    let operands = [state, kept.mean, hidden, kept.entropy, divergence];
    rec.dispatch(&DIVERGE, &params, operands, grid_1d(params.rows as usize));
    rec.dispatch(&ADD_UP, &params, [divergence, totals], [1, 1, 1]);
}

/// Adds `weight` times the gradient of ΣKL to dh `[R, H]`.
pub fn pull(rec: &mut Recording, tuned: Swept<'_>, kept: Kept<'_>, dh: &View, weight: f32) {
    let operands = [tuned.state, tuned.acc, tuned.targets, kept.mean, dh];
    rec.dispatch(&PULL, &params(tuned.state, dh, weight), operands, groups(dh.len()));
}

/// exp(l_y − m) and Z of a row.
fn label_and_sum<T: Real>(state: &[T]) -> (T, T) {
    let e_y = (state[2] - state[0]).exp();
    (e_y, state[1] + e_y)
}

/// a·b − ln Z, summed in f64.
fn mean_log_p<T: Real>(a: &[T], b: &[T], state: &[T]) -> f64 {
    let logit: f64 = a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
    let (_, z) = label_and_sum(state);
    logit - state[0].to_f64() - z.to_f64().ln()
}

fn remember_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let width = params.hidden as usize;
    let [state, acc, targets, hidden, mean, entropy] = call.args();
    let rows = mean
        .write()
        .par_chunks_exact_mut(width)
        .zip(entropy.write())
        .zip(state.read().par_chunks_exact(STATE))
        .zip(acc.read().par_chunks_exact(width))
        .zip(targets.read().par_chunks_exact(width))
        .zip(hidden.read().par_chunks_exact(width));
    rows.with_min_len(16).for_each(|(((((mean, entropy), state), acc), targets), hidden)| {
        let (e_y, z) = label_and_sum(state);
        for ((mean, acc), target) in mean.iter_mut().zip(acc).zip(targets) {
            *mean = (*acc + e_y * *target) / z;
        }
        *entropy = T::from_f64(mean_log_p(mean, hidden, state));
    });
}

fn diverge_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let width = params.hidden as usize;
    let [state, mean, hidden, entropy, divergence] = call.args();
    let rows = divergence
        .write()
        .iter_mut()
        .zip(entropy.read())
        .zip(state.read().chunks_exact(STATE))
        .zip(mean.read().chunks_exact(width))
        .zip(hidden.read().chunks_exact(width));
    for ((((divergence, entropy), state), mean), hidden) in rows {
        // Rounded as the entropy is: while the two models are one, the divergence is 0.
        *divergence = *entropy - T::from_f64(mean_log_p(mean, hidden, state));
    }
}

fn add_up_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [divergence, totals] = call.args();
    let sum: f64 = divergence.read().iter().map(|kl| kl.to_f64()).sum();
    totals.write()[0] += T::from_f64(f64::from(params.weight) * sum);
}

fn pull_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let (width, weight) = (params.hidden as usize, T::from_f32(params.weight));
    let [state, acc, targets, mean, dh] = call.args();
    let rows = dh
        .write()
        .par_chunks_exact_mut(width)
        .zip(state.read().par_chunks_exact(STATE))
        .zip(acc.read().par_chunks_exact(width))
        .zip(targets.read().par_chunks_exact(width))
        .zip(mean.read().par_chunks_exact(width));
    rows.with_min_len(16).for_each(|((((dh, state), acc), targets), mean)| {
        let (e_y, z) = label_and_sum(state);
        for (((dh, acc), target), mean) in dh.iter_mut().zip(acc).zip(targets).zip(mean) {
            *dh += weight * ((*acc + e_y * *target) / z - *mean);
        }
    });
}

fn cases() -> Vec<Case> {
    let case = |rows: usize, hidden: usize| {
        let shape = [rows, hidden];
        Case::new(format!("{rows} rows of {hidden}"), move |rec, t| {
            let kept = Kept { mean: t.view("mean"), entropy: t.view("entropy") };
            let base = Swept { state: t.view("base state"), acc: t.view("base acc"), targets: t.view("targets") };
            let tuned = Swept { state: t.view("state"), acc: t.view("acc"), targets: t.view("targets") };
            remember(rec, base, t.view("base hidden"), kept);
            diverge(rec, tuned.state, t.view("hidden"), kept, t.view("divergence"), t.view("totals"), 0.25);
            pull(rec, tuned, kept, t.view("dh"), 0.25);
        })
        .input("base state", &[rows, STATE], Fill::Between(0.2, 2.0))
        .input("state", &[rows, STATE], Fill::Between(0.2, 2.0))
        .input("base acc", &shape, Fill::Random(2.0))
        .input("acc", &shape, Fill::Random(2.0))
        .input("targets", &shape, Fill::Random(1.0))
        .input("base hidden", &shape, Fill::Random(1.0))
        .input("hidden", &shape, Fill::Random(1.0))
        .input("dh", &shape, Fill::Random(1.0))
        .input("totals", &[4], Fill::Values(vec![0.5, 2.0, 7.0, 3.0]))
        .output("mean", &shape)
        .output("entropy", &[rows])
        .output("divergence", &[rows])
        .updates("dh")
        .updates("totals")
    };
    vec![case(1, 1), case(3, 21), case(2, 64), case(5, 65), case(33, 576)]
}
