//! The four losses as plain functions of log-probabilities, in f64: what the device's kernels are
//! compared with.
//!
//! One sample is the slice of log p of its trained tokens, in order. With ℓ = −log p, B samples and
//! N trained tokens in the whole optimizer step, and n trained tokens in the sample, the sample
//! adds Σ c·ℓ to the loss:
//!
//! | loss | c of a token | its factors |
//! |---|---|---|
//! | `sft` | 1 / N | |
//! | `dft` | p / N | |
//! | `bft` | s · p / (B · n) | s = 1 − min(exp(m), 1)^γ, m the least mean of log p over g consecutive tokens |
//! | `bft-v3` | s · w / (B · (n + ε)) | w = clip(p / (C + ε), 0, 1), C the mean of p over the g tokens around it, s = 1 − min C |
//!
//! c is a constant for the gradient, which with respect to a token's logits is therefore c ·
//! (softmax − onehot). `bft` is arXiv 2511.21075v1 and its authors' code (a sample shorter than g
//! is one window), `bft-v3` is arXiv 2511.21075v3, whose windows are cut off at the sample's ends.
//! A sample with n = 0 adds nothing.

use std::fmt;

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
}

impl LossKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Sft, Self::Dft, Self::Bft, Self::BftV3];

    /// Its name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dft => "dft",
            Self::Bft => "bft",
            Self::BftV3 => "bft-v3",
        }
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A loss with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// Which.
    pub kind: LossKind,
    /// g, the tokens of a window of `bft` and `bft-v3`; 0 is taken as 1.
    pub group_size: usize,
    /// γ, the exponent of `bft`'s confidence; at 0 every sample weighs 0.
    pub gamma: f32,
}

impl Default for LossConfig {
    /// `bft` with windows of 256 tokens and γ = 1.
    fn default() -> Self {
        Self { kind: LossKind::default(), group_size: 256, gamma: 1.0 }
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
fn confidences(log_p: &[f64], group_size: usize) -> Vec<f64> {
    let p: Vec<f64> = log_p.iter().map(|log_p| log_p.exp()).collect();
    let (n, g) = (p.len(), group_size.max(1));
    let ranges = (0..n).map(|t| t.saturating_sub(g / 2)..t.saturating_add(g - g / 2).min(n));
    window_sums(&p, ranges).map(|(sum, len)| sum / len as f64).collect()
}

/// The weight w of every token of one sample.
#[must_use]
pub fn token_weights(log_p: &[f64], loss: &LossConfig) -> Vec<f64> {
    let p = log_p.iter().map(|log_p| log_p.exp());
    match loss.kind {
        LossKind::Sft => vec![1.0; log_p.len()],
        LossKind::Dft | LossKind::Bft => p.collect(),
        LossKind::BftV3 => p
            .zip(confidences(log_p, loss.group_size))
            .map(|(p, confidence)| (p / (confidence + EPSILON)).clamp(0.0, 1.0))
            .collect(),
    }
}

/// The weight s of one sample: 1 for `sft` and `dft`, 0 for a sample with nothing to train.
#[must_use]
pub fn sample_weight(log_p: &[f64], loss: &LossConfig) -> f64 {
    if log_p.is_empty() {
        return 0.0;
    }
    match loss.kind {
        LossKind::Sft | LossKind::Dft => 1.0,
        LossKind::Bft => {
            let g = loss.group_size.clamp(1, log_p.len());
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

/// c of every token of one sample: what its −log p, and its gradient, is multiplied by.
#[must_use]
pub fn coefficients(log_p: &[f64], loss: &LossConfig, totals: StepTotals) -> Vec<f64> {
    let n = log_p.len() as f64;
    let (samples, tokens) = (totals.samples as f64, totals.tokens as f64);
    let divisor = match loss.kind {
        LossKind::Sft | LossKind::Dft => tokens,
        LossKind::Bft => samples * n,
        LossKind::BftV3 => samples * (n + EPSILON),
    };
    let factor = sample_weight(log_p, loss) / divisor;
    let weights = token_weights(log_p, loss).into_iter();
    weights.map(|weight| factor * weight).collect()
}

/// What these samples add to the loss of a step.
#[must_use]
pub fn loss(samples: &[Vec<f64>], loss: &LossConfig, totals: StepTotals) -> f64 {
    let terms = samples.iter().map(|log_p| {
        let coefficients = coefficients(log_p, loss, totals);
        let terms = coefficients.iter().zip(log_p);
        terms.map(|(c, log_p)| -c * log_p).sum::<f64>()
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kind: LossKind, group_size: usize, gamma: f32) -> LossConfig {
        LossConfig { kind, group_size, gamma }
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
        assert!(error.contains("`bft3`, expected one of `sft`, `dft`, `bft`, `bft-v3`"), "{error}");
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
