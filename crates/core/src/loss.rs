//! The losses as plain functions of log-probabilities, in f64: what the device's kernels are
//! compared with.
//!
//! One sample is the slice of log p of its trained tokens, in order. With ℓ = −log p, B samples and
//! N trained tokens in the whole optimizer step, and n trained tokens in the sample, the sample
//! adds Σ c·ℓ to the loss:
//!
//! | loss | c of a token | its factors |
//! |---|---|---|
//! | `sft` | 1 / N | |
//! | `dft` | w / N | w = p |
//! | `bft` | s · w / (B · n) | w = p, s = 1 − min(exp(m), 1)^γ, m the least mean of log p over g consecutive tokens |
//! | `bft-v3` | s · w / (B · (n + ε)) | w = clip(p / (C + ε), 0, 1), C the mean of p over the g tokens around it, s = 1 − min C |
//! | `gce` | p^q / N | |
//!
//! c is a constant for the gradient, which with respect to a token's logits is therefore c ·
//! (softmax − onehot). `bft` is arXiv 2511.21075v1 and its authors' code (a sample shorter than g
//! is one window), `bft-v3` is arXiv 2511.21075v3, whose windows are cut off at the sample's ends.
//! A floor f makes the w of the three losses that have one max(w, f); s does not change.
//!
//! `gce` is generalised cross-entropy (arXiv 1805.07836), Σ (1 − p^q) / q / N. It needs no constant:
//! c is its own slope, and only its value is not Σ c·ℓ. It goes from `sft` at q → 0 to the gradient
//! of `dft` at q = 1.
//! A sample with n = 0 adds nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// ε of `bft-v3`, which keeps its quotients finite.
pub const EPSILON: f64 = 1e-8;

/// Which loss is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Mean negative log-likelihood.
    Sft,
    /// Every token weighed by its own probability.
    Dft,
    /// Balanced Fine-Tuning: tokens by their probability, samples by their least confident window.
    #[default]
    Bft,
    /// Balanced Fine-Tuning as its third version defines it: tokens by their probability relative
    /// to their window.
    #[serde(rename = "bft-v3")]
    BftV3,
    /// Generalised cross-entropy: every token weighed by its own probability to the power q.
    Gce,
}

impl LossKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Sft, Self::Dft, Self::Bft, Self::BftV3, Self::Gce];

    /// Its name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dft => "dft",
            Self::Bft => "bft",
            Self::BftV3 => "bft-v3",
            Self::Gce => "gce",
        }
    }

    /// Whether a token's weight has a floor: not where all are 1, or are the slope of the loss.
    #[must_use]
    pub fn has_weight_floor(self) -> bool {
        matches!(self, Self::Dft | Self::Bft | Self::BftV3)
    }

    /// Whether samples have windows, of g tokens.
    #[must_use]
    pub fn has_windows(self) -> bool {
        matches!(self, Self::Bft | Self::BftV3)
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// g, the tokens of a window: a whole number, or `n/4` for a part of each sample's trained tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Written")]
pub enum GroupSize {
    /// So many in every sample; 0 is taken as 1.
    Tokens(u32),
    /// ⌈n / k⌉ in a sample of n trained tokens; a k of 0 is taken as 1.
    PartOf(u32),
}

/// A group size in a file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number from 1, or a part such as n/4")]
enum Written {
    Number(u64),
    Text(String),
}

impl GroupSize {
    /// Tokens of a window in a sample of `trained` tokens: 1 at least.
    #[must_use]
    pub fn of(self, trained: usize) -> usize {
        let size = match self {
            Self::Tokens(tokens) => tokens as usize,
            Self::PartOf(parts) => trained.div_ceil(parts.max(1) as usize),
        };
        size.max(1)
    }
}

impl fmt::Display for GroupSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => tokens.fmt(f),
            Self::PartOf(parts) => write!(f, "n/{parts}"),
        }
    }
}

impl FromStr for GroupSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, size): (_, fn(u32) -> Self) = match text.strip_prefix("n/") {
            None => (text, Self::Tokens),
            Some(parts) => (parts, Self::PartOf),
        };
        let number = number.parse().ok().filter(|number| *number >= 1);
        number.map(size).ok_or_else(|| format!("expected a whole number from 1 to {}, or a part such as n/4", u32::MAX))
    }
}

impl TryFrom<Written> for GroupSize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl Serialize for GroupSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => serializer.serialize_u32(*tokens),
            Self::PartOf(_) => serializer.collect_str(self),
        }
    }
}

/// A loss with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// Which.
    pub kind: LossKind,
    /// g, the tokens of a window of `bft` and `bft-v3`.
    pub group_size: GroupSize,
    /// γ, the exponent of `bft`'s confidence; at 0 every sample weighs 0.
    pub gamma: f32,
    /// The least weight of a token of `dft`, `bft` and `bft-v3`, from 0 to 1.
    pub weight_floor: f32,
    /// q of `gce`, above 0 and at most 1.
    pub q: f32,
    /// k of k·ΣKL(base ‖ tuned) / N, which is added to the loss of a step: an anchor to the model
    /// without its adapter. Not in the functions here, which know no other tokens than the right.
    pub kl_weight: f32,
}

impl Default for LossConfig {
    /// `bft` with windows of 256 tokens and γ = 1.
    fn default() -> Self {
        Self {
            kind: LossKind::default(),
            group_size: GroupSize::Tokens(256),
            gamma: 1.0,
            weight_floor: 0.0,
            q: 0.5,
            kl_weight: 0.0,
        }
    }
}

/// What one optimizer step is divided by: the sizes of all its micro-batches together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepTotals {
    /// B, with samples that have nothing to train.
    pub samples: usize,
    /// N, trained tokens.
    pub tokens: usize,
}

/// Σ −log p of one sample.
#[must_use]
pub fn nll(log_p: &[f64]) -> f64 {
    -log_p.iter().sum::<f64>()
}

/// Sums of `values` over each range.
fn window_sums<'a>(
    values: &'a [f64],
    ranges: impl Iterator<Item = std::ops::Range<usize>> + 'a,
) -> impl Iterator<Item = (f64, usize)> + 'a {
    ranges.map(|range| (values[range.clone()].iter().sum(), range.len()))
}

/// C of every token of `bft-v3`: the mean of p over tokens t − ⌊g/2⌋ .. t − ⌊g/2⌋ + g that exist.
fn confidences(log_p: &[f64], group_size: GroupSize) -> Vec<f64> {
    let p: Vec<f64> = log_p.iter().map(|log_p| log_p.exp()).collect();
    let (n, g) = (p.len(), group_size.of(p.len()));
    let ranges = (0..n).map(|t| t.saturating_sub(g / 2)..t.saturating_add(g - g / 2).min(n));
    window_sums(&p, ranges).map(|(sum, len)| sum / len as f64).collect()
}

/// The weight w of every token of one sample.
#[must_use]
pub fn token_weights(log_p: &[f64], loss: &LossConfig) -> Vec<f64> {
    let p = log_p.iter().map(|log_p| log_p.exp());
    let floor = f64::from(loss.weight_floor);
    match loss.kind {
        LossKind::Sft => vec![1.0; log_p.len()],
        LossKind::Dft | LossKind::Bft => p.map(|p| p.max(floor)).collect(),
        LossKind::BftV3 => p
            .zip(confidences(log_p, loss.group_size))
            .map(|(p, confidence)| (p / (confidence + EPSILON)).clamp(0.0, 1.0).max(floor))
            .collect(),
        LossKind::Gce => log_p.iter().map(|log_p| (f64::from(loss.q) * log_p).exp()).collect(),
    }
}

/// The weight s of one sample: 1 for losses that weigh all samples alike, 0 for a sample with
/// nothing to train.
#[must_use]
pub fn sample_weight(log_p: &[f64], loss: &LossConfig) -> f64 {
    if log_p.is_empty() {
        return 0.0;
    }
    match loss.kind {
        LossKind::Sft | LossKind::Dft | LossKind::Gce => 1.0,
        LossKind::Bft => {
            let g = loss.group_size.of(log_p.len()).min(log_p.len());
            let windows = (0..=log_p.len() - g).map(|first| first..first + g);
            let least = window_sums(log_p, windows).map(|(sum, _)| sum / g as f64).fold(f64::INFINITY, f64::min);
            1.0 - least.exp().clamp(0.0, 1.0).powf(f64::from(loss.gamma))
        }
        LossKind::BftV3 => {
            let all = confidences(log_p, loss.group_size);
            1.0 - all.into_iter().fold(f64::INFINITY, f64::min)
        }
    }
}

/// c of every token of one sample: what the gradient of its −log p is multiplied by.
#[must_use]
pub fn coefficients(log_p: &[f64], loss: &LossConfig, totals: StepTotals) -> Vec<f64> {
    let n = log_p.len() as f64;
    let (samples, tokens) = (totals.samples as f64, totals.tokens as f64);
    let divisor = match loss.kind {
        LossKind::Sft | LossKind::Dft | LossKind::Gce => tokens,
        LossKind::Bft => samples * n,
        LossKind::BftV3 => samples * (n + EPSILON),
    };
    let factor = sample_weight(log_p, loss) / divisor;
    let weights = token_weights(log_p, loss).into_iter();
    weights.map(|weight| factor * weight).collect()
}

/// What one sample, whose tokens have these [`coefficients`], adds to the loss of a step.
#[must_use]
pub fn sample_loss(log_p: &[f64], coefficients: &[f64], loss: &LossConfig, totals: StepTotals) -> f64 {
    if loss.kind == LossKind::Gce {
        let q = f64::from(loss.q);
        return log_p.iter().map(|log_p| -(q * log_p).exp_m1() / q / totals.tokens as f64).sum();
    }
    coefficients.iter().zip(log_p).map(|(c, log_p)| -c * log_p).sum()
}

/// What these samples add to the loss of a step.
#[must_use]
pub fn loss(samples: &[Vec<f64>], loss: &LossConfig, totals: StepTotals) -> f64 {
    let of_sample = |log_p: &Vec<f64>| sample_loss(log_p, &coefficients(log_p, loss, totals), loss, totals);
    samples.iter().map(of_sample).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kind: LossKind, group_size: u32, gamma: f32) -> LossConfig {
        LossConfig { kind, group_size: GroupSize::Tokens(group_size), gamma, ..LossConfig::default() }
    }

    fn logs(p: &[f64]) -> Vec<f64> {
        p.iter().map(|p| p.ln()).collect()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn names_go_both_ways() {
        for kind in LossKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<LossKind>(&json).unwrap(), kind);
        }
        let error = serde_json::from_str::<LossKind>("\"bft3\"").unwrap_err().to_string();
        assert!(error.contains("`bft3`, expected one of `sft`, `dft`, `bft`, `bft-v3`, `gce`"), "{error}");
    }

    #[test]
    fn bft_weighs_a_sample_by_its_least_likely_window() {
        let log_p = logs(&[0.9, 0.2, 0.8, 0.4]);
        let s = |g, gamma| sample_weight(&log_p, &config(LossKind::Bft, g, gamma));
        close(s(1, 1.0), 1.0 - 0.2);
        close(s(2, 1.0), 1.0 - (0.2f64 * 0.8).sqrt());
        let all = (0.9f64 * 0.2 * 0.8 * 0.4).powf(0.25);
        close(s(4, 1.0), 1.0 - all);
        close(s(5, 1.0), 1.0 - all);
        close(s(5, 0.5), 1.0 - all.sqrt());
        close(s(2, 0.0), 0.0);
        close(s(0, 1.0), 1.0 - 0.2);
    }

    #[test]
    fn bft_v3_weighs_a_token_by_its_surroundings() {
        let p = [0.9, 0.2, 0.8, 0.4];
        // g = 2: tokens t−1 and t; the first has only itself.
        let c = [0.9, 0.55, 0.5, 0.6];
        let loss = config(LossKind::BftV3, 2, 1.0);
        for ((w, p), c) in token_weights(&logs(&p), &loss).into_iter().zip(p).zip(c) {
            close(w, (p / (c + EPSILON)).min(1.0));
        }
        close(sample_weight(&logs(&p), &loss), 0.5);
        // g = 3: tokens t−1, t, t+1.
        let least = (0.9 + 0.2) / 2.0;
        close(
            sample_weight(&logs(&p), &config(LossKind::BftV3, 3, 1.0)),
            1.0 - f64::min(least, f64::min((0.2 + 0.8 + 0.4) / 3.0, 0.6)),
        );
    }

    #[test]
    fn uniform_p_makes_bft_v3_sft_times_the_sample_weight() {
        let log_p = logs(&[0.3; 7]);
        let loss = config(LossKind::BftV3, 4, 1.0);
        for w in token_weights(&log_p, &loss) {
            assert!((w - 1.0).abs() < 1e-7, "{w}");
        }
        close(sample_weight(&log_p, &loss), 0.7);
        let sure = logs(&[1.0; 7]);
        close(sample_weight(&sure, &loss), 0.0);
        close(sample_weight(&sure, &config(LossKind::Bft, 4, 1.0)), 0.0);
    }

    #[test]
    fn a_group_size_is_a_number_or_a_part() {
        for (text, json, size) in [
            ("1", "1", GroupSize::Tokens(1)),
            ("4294967295", "4294967295", GroupSize::Tokens(u32::MAX)),
            ("n/1", "\"n/1\"", GroupSize::PartOf(1)),
            ("n/4", "\"n/4\"", GroupSize::PartOf(4)),
        ] {
            assert_eq!((text.parse(), size.to_string().as_str()), (Ok(size), text));
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
            assert_eq!(serde_json::from_str::<GroupSize>(json).unwrap(), size);
        }
        let expected = "expected a whole number from 1 to 4294967295, or a part such as n/4";
        for text in
            ["", "0", "-1", "0.25", "1/4", "n", "n/", "n/0", "n/0.5", "n/-4", "n/4294967296", "4294967296", "N/4"]
        {
            assert_eq!(text.parse::<GroupSize>().unwrap_err(), expected, "{text}");
        }
        for json in ["0", "0.5", "-1", "true", "\"n/0\"", "18446744073709551615"] {
            let error = serde_json::from_str::<GroupSize>(json).unwrap_err().to_string();
            assert!(error.starts_with("expected a whole number from 1"), "{json}: {error}");
        }
    }

    #[test]
    fn a_part_is_rounded_up_and_never_nothing() {
        let sizes = [0, 1, 3, 4, 5, 17].map(|trained| GroupSize::PartOf(4).of(trained));
        assert_eq!(sizes, [1, 1, 1, 1, 2, 5]);
        assert_eq!((GroupSize::PartOf(1).of(7), GroupSize::PartOf(u32::MAX).of(7)), (7, 1));
        assert_eq!((GroupSize::PartOf(0).of(7), GroupSize::Tokens(0).of(7)), (7, 1));
        let log_p = logs(&[0.9, 0.2, 0.8, 0.4, 0.7]);
        for kind in [LossKind::Bft, LossKind::BftV3] {
            let part = LossConfig { group_size: GroupSize::PartOf(4), ..config(kind, 1, 1.0) };
            let same = config(kind, 2, 1.0);
            assert_eq!(token_weights(&log_p, &part), token_weights(&log_p, &same));
            assert_eq!(sample_weight(&log_p, &part), sample_weight(&log_p, &same));
        }
    }

    #[test]
    fn a_floor_is_the_least_weight_of_a_token_and_leaves_samples_alone() {
        let log_p = logs(&[0.9, 0.04, 0.8, 0.001]);
        for kind in LossKind::ALL {
            let free = config(kind, 2, 1.0);
            let held = LossConfig { weight_floor: 0.25, ..free };
            let least = if kind.has_weight_floor() { 0.25 } else { 0.0 };
            for (held, free) in token_weights(&log_p, &held).into_iter().zip(token_weights(&log_p, &free)) {
                assert_eq!(held, free.max(least), "{kind}");
            }
            assert_eq!(sample_weight(&log_p, &held), sample_weight(&log_p, &free), "{kind}");
        }
        let one = LossConfig { weight_floor: 1.0, ..config(LossKind::Dft, 2, 1.0) };
        let totals = StepTotals { samples: 1, tokens: 4 };
        assert_eq!(coefficients(&log_p, &one, totals), coefficients(&log_p, &config(LossKind::Sft, 2, 1.0), totals));
    }

    #[test]
    fn gce_lies_between_sft_and_the_gradient_of_dft() {
        let totals = StepTotals { samples: 1, tokens: 4 };
        let gce = |q| LossConfig { q, ..config(LossKind::Gce, 1, 1.0) };
        let p = [0.9, 0.04, 0.8, 0.001];
        let value = |q| loss(&[logs(&p)], &gce(q), totals);
        close(value(1.0), p.iter().map(|p| 1.0 - p).sum::<f64>() / 4.0);
        close(value(0.5), p.iter().map(|p| 2.0 * (1.0 - p.sqrt())).sum::<f64>() / 4.0);
        let sft = loss(&[logs(&p)], &config(LossKind::Sft, 1, 1.0), totals);
        assert!((value(1e-7) / sft - 1.0).abs() < 1e-6 && (value(1e-38) / sft - 1.0).abs() < 1e-12);
        let (one, dft) = (gce(1.0), config(LossKind::Dft, 1, 1.0));
        assert_eq!(coefficients(&logs(&p), &one, totals), coefficients(&logs(&p), &dft, totals));
        // Near p = 1 no digit is lost, and p = 0 is finite.
        let ends = |log_p: f64| loss(&[vec![log_p]], &gce(0.5), StepTotals { samples: 1, tokens: 1 });
        close(ends(-1e-13) / 1e-13, 1.0);
        assert_eq!((ends(0.0), ends(-1e4), ends(f64::NEG_INFINITY)), (0.0, 2.0, 2.0));
    }

    /// What is not a constant for the gradient must be its own slope.
    #[test]
    fn the_coefficients_of_sft_and_gce_are_central_differences_of_their_values() {
        let totals = StepTotals { samples: 1, tokens: 5 };
        for (kind, q) in [(LossKind::Sft, 0.5), (LossKind::Gce, 0.5), (LossKind::Gce, 0.1), (LossKind::Gce, 1.0)] {
            let config = LossConfig { q, ..config(kind, 1, 1.0) };
            let log_p = logs(&[0.9999, 0.5, 0.03, 1e-3]);
            for (at, c) in coefficients(&log_p, &config, totals).into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = log_p.clone();
                    moved[at] += by;
                    loss(&[moved], &config, totals)
                };
                let slope = (moved(-1e-5) - moved(1e-5)) / 2e-5;
                assert!((slope / c - 1.0).abs() < 1e-6, "{kind}, q {q}: {c}, central difference {slope}");
            }
        }
    }

    #[test]
    fn an_empty_sample_adds_nothing_and_counts() {
        let totals = StepTotals { samples: 2, tokens: 2 };
        for kind in LossKind::ALL {
            let config = config(kind, 4, 1.0);
            let one = logs(&[0.5, 0.25]);
            let with = loss(&[one.clone(), vec![]], &config, totals);
            close(with, loss(&[one], &config, totals));
            assert!(with > 0.0);
        }
    }

    #[test]
    fn micro_batches_add_up() {
        let samples: Vec<Vec<f64>> = vec![logs(&[0.5, 0.1, 0.7]), logs(&[0.9]), logs(&[0.3, 0.6])];
        let totals = StepTotals { samples: 3, tokens: 6 };
        for kind in LossKind::ALL {
            let config = config(kind, 2, 0.5);
            let parts = samples.iter().map(|sample| loss(std::slice::from_ref(sample), &config, totals));
            close(parts.sum(), loss(&samples, &config, totals));
        }
        let mean = samples.iter().map(|sample| nll(sample)).sum::<f64>() / 6.0;
        close(loss(&samples, &config(LossKind::Sft, 2, 1.0), totals), mean);
    }
}
