//! NLL, perplexity and every loss of a file, from the log-probability of every trained token.

use bft_core::{LossConfig, LossKind, StepTotals, loss};

use crate::batches::{BatchBounds, groups, pack};
use crate::engine::{EngineError, LogProbs, check_finite};
use crate::samples::Sample;

/// A number for each loss.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS))]
#[expect(missing_docs, reason = "the fields are the losses")]
pub struct ByLoss {
    pub sft: f64,
    pub dft: f64,
    pub bft: f64,
    #[serde(rename = "bft-v3")]
    pub bft_v3: f64,
    pub gce: f64,
}

impl ByLoss {
    /// What `number` gives for each.
    pub fn each(number: impl Fn(LossKind) -> f64) -> Self {
        let [sft, dft, bft, bft_v3, gce] = LossKind::ALL.map(number);
        Self { sft, dft, bft, bft_v3, gce }
    }

    /// The number of that kind.
    pub fn of(&self, kind: LossKind) -> f64 {
        match kind {
            LossKind::Sft => self.sft,
            LossKind::Dft => self.dft,
            LossKind::Bft => self.bft,
            LossKind::BftV3 => self.bft_v3,
            LossKind::Gce => self.gce,
        }
    }
}

/// What an evaluation finds; serialises to the object that `eval --json` prints.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EvalReport {
    /// Mean −log p of the trained tokens.
    pub nll: f64,
    /// exp(nll).
    pub perplexity: f64,
    /// Trained tokens.
    pub tokens: usize,
    /// Samples.
    pub samples: usize,
    /// The losses of all rows as one batch: the mean over tokens of sft, dft and gce, the mean over
    /// samples of s · Σ w ℓ / n of the others.
    pub loss: ByLoss,
}

/// Sums up an evaluation, sample by sample, in f64 and in file order.
#[derive(Debug, Clone)]
pub struct Tally {
    loss: LossConfig,
    totals: StepTotals,
    /// Σ over tokens for sft, dft and gce, Σ over samples for bft and bft-v3.
    sums: ByLoss,
}

impl Tally {
    /// Nothing yet. Of `loss`, all but the kind matters.
    pub fn new(loss: LossConfig) -> Self {
        Self { loss, totals: StepTotals::default(), sums: ByLoss::each(|_| 0.0) }
    }

    /// Samples so far.
    pub fn samples(&self) -> usize {
        self.totals.samples
    }

    /// Runs a group of samples as one packed batch and adds it.
    pub async fn add(&mut self, engine: &mut impl LogProbs, group: &[Sample]) -> Result<(), EngineError> {
        let batch = pack(&group.iter().collect::<Vec<_>>());
        let log_probs = engine.log_probs(&batch).await?;
        if log_probs.len() != batch.trained.len() {
            let (found, expected) = (log_probs.len(), batch.trained.len());
            return Err(format!("the device gave {found} log-probabilities, expected {expected}").into());
        }
        for (range, sample) in batch.trained_segments.windows(2).zip(group) {
            let of_sample = &log_probs[range[0] as usize..range[1] as usize];
            check_finite(of_sample, &sample.origin)?;
            self.add_sample(of_sample.iter().map(|l| f64::from(*l)).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Adds one sample by the log-probabilities of its trained tokens.
    pub fn add_sample(&mut self, log_probs: Vec<f64>) {
        self.totals.samples += 1;
        self.totals.tokens += log_probs.len();
        let one = StepTotals { samples: 1, tokens: 1 };
        let sample = [log_probs];
        let more = |kind| loss::loss(&sample, &LossConfig { kind, ..self.loss }, one);
        self.sums = ByLoss::each(|kind| self.sums.of(kind) + more(kind));
    }

    /// The means; zeros where nothing was added.
    pub fn report(&self) -> EvalReport {
        let StepTotals { samples, tokens } = self.totals;
        let (by_sample, by_token) = (samples.max(1) as f64, tokens.max(1) as f64);
        let loss = ByLoss::each(|kind| match kind {
            LossKind::Sft | LossKind::Dft | LossKind::Gce => self.sums.of(kind) / by_token,
            LossKind::Bft | LossKind::BftV3 => self.sums.of(kind) / by_sample,
        });
        let nll = loss.sft;
        EvalReport { nll, perplexity: nll.exp(), tokens, samples, loss }
    }
}

/// Evaluates samples in groups that fit `bounds`; `on_group` hears how many are done. Of `loss`,
/// all but the kind matters.
pub async fn evaluate(
    engine: &mut impl LogProbs,
    samples: &[Sample],
    bounds: BatchBounds,
    loss: LossConfig,
    mut on_group: impl FnMut(usize),
) -> Result<EvalReport, EngineError> {
    let mut tally = Tally::new(loss);
    for group in groups(samples, bounds) {
        tally.add(engine, group).await?;
        on_group(tally.samples());
    }
    Ok(tally.report())
}

#[cfg(test)]
#[path = "evaluate/tests.rs"]
mod tests;
