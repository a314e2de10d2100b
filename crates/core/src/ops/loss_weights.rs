//! From the log-probabilities of a micro-batch to the loss, and to what each token's gradient is
//! multiplied by.
//!
//! The equations are those of [`crate::loss`]: a token with coefficient c adds c·(−log p) to the
//! loss, or (1 − p^q)/(q·N) with `gce`, and c times (softmax − onehot) to the gradient of its logits.

use super::Op;
use super::case::{Case, Fill};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::loss::{self, GroupSize, LossConfig, LossKind, StepTotals};
use crate::real::Real;

params! {
    struct Params {
        kind: u32,
        group_size: u32,
        parts: u32,
        gamma: f32,
        weight_floor: f32,
        q: f32,
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
const KINDS: [LossKind; 5] = LossKind::ALL;

/// Rounds of loops that an invocation may take: Mesa's software driver leaves all loops after 65,535
/// of them, whatever is left to do. GPUs have no such bound.
const MOST_ROUNDS: usize = 60_000;

/// Whether Mesa's software driver weighs a sample of so many trained tokens rightly. Each lane takes
/// every 64th token, and with `bft-v3` the whole window of each.
#[must_use]
pub fn software_can(loss: &LossConfig, trained: usize) -> bool {
    let window = if loss.kind == LossKind::BftV3 { loss.group_size.of(trained).min(trained) } else { 2 };
    trained.div_ceil(64).saturating_mul(window) <= MOST_ROUNDS
}

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
    // No window is wider than a sample, and none is narrower than a token, so that a size or a
    // number of parts beyond 2^30 means the same as that one, whose sums stay within u32.
    let (group_size, parts) = match loss.group_size {
        GroupSize::Tokens(tokens) => (tokens.clamp(1, 1 << 30), 0),
        GroupSize::PartOf(parts) => (0, parts.clamp(1, 1 << 30)),
    };
    let params = Params {
        kind: kind.expect("all kinds are listed") as u32,
        group_size,
        parts,
        gamma: loss.gamma,
        weight_floor: loss.weight_floor,
        q: loss.q,
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
    let config = LossConfig {
        kind: KINDS[params.kind as usize],
        group_size: match params.parts {
            0 => GroupSize::Tokens(params.group_size),
            parts => GroupSize::PartOf(parts),
        },
        gamma: params.gamma,
        weight_floor: params.weight_floor,
        q: params.q,
        ..LossConfig::default()
    };
    let step = StepTotals { samples: params.step_samples as usize, tokens: params.step_tokens as usize };
    let terms = sample_terms.write().chunks_exact_mut(2);
    for (bounds, term) in bounds.windows(2).zip(terms) {
        let range = bounds[0] as usize..bounds[1] as usize;
        let log_p: Vec<f64> = log_p[range.clone()].iter().map(|x| x.to_f64()).collect();
        let of_tokens = loss::coefficients(&log_p, &config, step);
        let loss = loss::sample_loss(&log_p, &of_tokens, &config, step);
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
    let mut add = |what: &str, lengths: &[usize], loss: LossConfig, low: f32, high: f32| {
        let mut bounds = vec![0u32];
        for length in lengths {
            bounds.push(bounds[bounds.len() - 1] + *length as u32);
        }
        let (samples, rows) = (lengths.len(), lengths.iter().sum());
        for kind in LossKind::ALL {
            let config = LossConfig { kind, ..loss };
            let step = StepTotals { samples: samples + 3, tokens: rows + 10 };
            let LossConfig { group_size, gamma, weight_floor, q, .. } = config;
            let label = format!("{kind}, {what}, windows of {group_size}, gamma {gamma}, floor {weight_floor}, q {q}");
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
    let windows = |group_size, gamma| LossConfig { group_size, gamma, ..LossConfig::default() };
    let of = |tokens, gamma| windows(GroupSize::Tokens(tokens), gamma);
    add("one token", &[1], of(256, 1.0), -2.0, -0.1);
    let ragged = [3, 0, 4, 5, 1, 63, 64, 65, 130];
    add("ragged samples", &ragged, of(4, 1.0), -6.0, -0.01);
    add("ragged samples", &ragged, LossConfig { weight_floor: 0.1, ..of(1, 0.5) }, -6.0, -0.01);
    add("ragged samples", &ragged, LossConfig { q: 1.0, ..of(65, 2.0) }, -30.0, -0.01);
    add("ragged samples", &ragged, of(256, 0.0), -3.0, -0.01);
    let parts = LossConfig { weight_floor: 1.0, q: 0.1, ..windows(GroupSize::PartOf(4), 1.0) };
    add("ragged samples", &ragged, parts, -6.0, -0.01);
    add("ragged samples", &ragged, windows(GroupSize::PartOf(u32::MAX), 1.0), -6.0, -0.01);
    add("nearly sure tokens", &[40, 3], of(8, 1.0), -1e-6, -1e-9);
    add("nearly sure tokens", &[40, 3], LossConfig { q: 1e-3, ..of(8, 1.0) }, -1e-6, -1e-9);
    add("a nearly plain loss", &[40, 3], LossConfig { q: 1e-42, ..of(8, 1.0) }, -6.0, -0.01);
    add("sure tokens", &[4, 2], of(3, 1.0), 0.0, 0.0);
    add("unlikely tokens", &[70], of(16, 1.0), -60.0, -20.0);
    add("impossible tokens", &[70], LossConfig { weight_floor: 0.05, ..of(16, 1.0) }, -1e4, -1e3);
    add("a long sample", &[8192, 1000], of(256, 1.0), -5.0, -0.01);
    // The software driver's rounds of loops, see MOST_ROUNDS, do for no longer one.
    add("a long window", &[2048, 1000], windows(GroupSize::PartOf(3), 1.0), -5.0, -0.01);
    cases
}
