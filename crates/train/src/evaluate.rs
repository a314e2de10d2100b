//! NLL, perplexity and all four losses of a file, from the log-probability of every trained token.

use bft_core::LossKind;

use crate::batches::pack;
use crate::engine::{EngineError, LogProbs};
use crate::samples::Sample;

/// The four losses of one set of rows, as one batch.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Losses {
    /// Σ ℓ / N.
    pub sft: f64,
    /// Σ p ℓ / N.
    pub dft: f64,
    /// Mean over samples of s · Σ p ℓ / n.
    pub bft: f64,
    /// The same with version 3's weights.
    #[serde(rename = "bft-v3")]
    pub bft_v3: f64,
}

impl Losses {
    /// The loss of that kind.
    pub fn of(&self, kind: LossKind) -> f64 {
        match kind {
            LossKind::Sft => self.sft,
            LossKind::Dft => self.dft,
            LossKind::Bft => self.bft,
            LossKind::BftV3 => self.bft_v3,
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
    /// The four losses.
    pub loss: Losses,
}
