//! From the log-probabilities of a micro-batch to the loss, and to what each token's gradient is
//! multiplied by.
//!
//! The equations are those of [`crate::loss`]: a token with coefficient c adds c·(−log p) to the
//! loss, and c, a constant for the gradient, times (softmax − onehot) to the gradient of its
//! logits.

use super::Op;
use super::case::{Case, Fill};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::loss::{self, LossConfig, LossKind, StepTotals};
use crate::real::Real;

params! {
    struct Params {
        kind: u32,
        group_size: u32,
        gamma: f32,
        step_samples: f32,
        step_tokens: f32,
        samples: u32,
        rows: u32,
    }
}

kernels! { KERNELS of Params:
    WEIGH = "loss_weights"::weigh(
        log_p: Read, bounds: Ids, coefficients: ReadWrite, sample_terms: Write
    ) => weigh_cpu;
    ADD_UP = "loss_weights"::add_up(sample_terms_read: Read, totals: ReadWrite) => add_up_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "loss_weights", kernels: KERNELS, variants: &[&[]], cases };

/// Index of the kinds in the shader.
const KINDS: [LossKind; 4] = LossKind::ALL;

/// Weighs the tokens of a micro-batch and adds its share of the step to the totals.
///
/// - `log_p` `[R]`: log-probabilities of the trained tokens; `bounds` `[S + 1]`: the range of each
///   sample in them.
/// - `coefficients` `[R]`, written: c of each token.
/// - `sample_terms` `[S, 2]`, scratch: loss and summed nll of each sample.
/// - `totals` `[4]`, added to: loss, summed nll, trained tokens; the fourth is left alone.
/// - `totals_of_step`: what the whole optimizer step is divided by.
pub fn forward(
    rec: &mut Recording,
    log_p: &View,
    bounds: &View,
    coefficients: &View,
    sample_terms: &View,
    totals: &View,
    loss: &LossConfig,
    totals_of_step: StepTotals,
) {
    let (rows, samples) = (log_p.len(), bounds.len().saturating_sub(1));
    if rows == 0 || samples == 0 {
        return;
    }
    let kind = KINDS.iter().position(|kind| *kind == loss.kind);
    let params = Params {
        kind: kind.expect("all kinds are listed") as u32,
        // No window is wider than a sample, so a size beyond u32 means the same as the largest.
        group_size: u32::try_from(loss.group_size.clamp(1, 1 << 30)).expect("clamped"),
        gamma: loss.gamma,
        step_samples: totals_of_step.samples as f32,
        step_tokens: totals_of_step.tokens as f32,
        samples: samples as u32,
        rows: rows as u32,
    };
    rec.dispatch(&WEIGH, &params, [log_p, bounds, coefficients, sample_terms], grid_1d(samples));
    rec.dispatch(&ADD_UP, &params, [sample_terms, totals], [1, 1, 1]);
}

/// The host's functions in f64, whatever the device holds.
fn weigh_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [log_p, bounds, coefficients, sample_terms] = call.args();
    let (log_p, bounds, coefficients) = (log_p.read(), bounds.ids(), coefficients.write());
    let config =
        LossConfig { kind: KINDS[params.kind as usize], group_size: params.group_size as usize, gamma: params.gamma };
    let step = StepTotals { samples: params.step_samples as usize, tokens: params.step_tokens as usize };
    let terms = sample_terms.write().chunks_exact_mut(2);
    for (bounds, term) in bounds.windows(2).zip(terms) {
        let range = bounds[0] as usize..bounds[1] as usize;
        let log_p: Vec<f64> = log_p[range.clone()].iter().map(|x| x.to_f64()).collect();
        let of_tokens = loss::coefficients(&log_p, &config, step);
        let loss: f64 = of_tokens.iter().zip(&log_p).map(|(c, x)| -c * x).sum();
        for (slot, c) in coefficients[range].iter_mut().zip(of_tokens) {
            *slot = T::from_f64(c);
        }
        term[0] = T::from_f64(loss);
        term[1] = T::from_f64(loss::nll(&log_p));
    }
}

fn add_up_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [sample_terms, totals] = call.args();
    let totals = totals.write();
    let (mut loss, mut nll) = (T::ZERO, T::ZERO);
    for term in sample_terms.read().chunks_exact(2) {
        loss += term[0];
        nll += term[1];
    }
    totals[0] += loss;
    totals[1] += nll;
    totals[2] += T::from_f64(f64::from(params.rows));
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what: &str, lengths: &[usize], group_size, gamma, low: f32, high: f32| {
        let mut bounds = vec![0u32];
        for length in lengths {
            bounds.push(bounds[bounds.len() - 1] + *length as u32);
        }
        let (samples, rows) = (lengths.len(), lengths.iter().sum());
        for kind in LossKind::ALL {
            let config = LossConfig { kind, group_size, gamma };
            let step = StepTotals { samples: samples + 3, tokens: rows + 10 };
            let label = format!("{kind}, {what}, windows of {group_size}, gamma {gamma}");
            cases.push(
                Case::new(label, move |rec, t| {
                    forward(
                        rec,
                        t.view("log_p"),
                        t.view("bounds"),
                        t.view("coefficients"),
                        t.view("sample_terms"),
                        t.view("totals"),
                        &config,
                        step,
                    );
                })
                .input("log_p", &[rows], Fill::Between(low, high))
                .input("bounds", &[samples + 1], Fill::ExactIds(bounds.clone()))
                .output("coefficients", &[rows])
                .output("sample_terms", &[samples, 2])
                .input("totals", &[4], Fill::Values(vec![0.5, 2.0, 7.0, 3.0]))
                .updates("totals"),
            );
        }
    };
    add("one token", &[1], 256, 1.0, -2.0, -0.1);
    let ragged = [3, 0, 4, 5, 1, 63, 64, 65, 130];
    add("ragged samples", &ragged, 4, 1.0, -6.0, -0.01);
    add("ragged samples", &ragged, 1, 0.5, -6.0, -0.01);
    add("ragged samples", &ragged, 65, 2.0, -30.0, -0.01);
    add("ragged samples", &ragged, 256, 0.0, -3.0, -0.01);
    add("nearly sure tokens", &[40, 3], 8, 1.0, -1e-6, -1e-9);
    add("sure tokens", &[4, 2], 3, 1.0, 0.0, 0.0);
    add("unlikely tokens", &[70], 16, 1.0, -60.0, -20.0);
    add("a long sample", &[8192, 1000], 256, 1.0, -5.0, -0.01);
    cases
}
