//! What a run will hold in memory, found by planning it on a device that only counts.

use bft_core::device::Device;
use bft_core::{Capacity, ModelError, Tuner, TunerOptions};
use bft_formats::{Adapter, LoraPair, Model};

use crate::plan::Plan;

/// Bytes that a training run needs on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryEstimate {
    /// The frozen model, in its file's format or quantised. On the CPU these are pages of the file
    /// itself, but for what is made of them as it loads.
    pub model_bytes: u64,
    /// The adapter, and of what is trained of it the gradient and AdamW's two moments.
    pub adapter_bytes: u64,
    /// Activations, logits in chunks, and everything else.
    pub activation_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Whether activations will be computed again instead of kept.
    pub checkpoints_activations: bool,
}

/// What tuning `adapter` on `model` needs.
///
/// # Errors
/// Where the adapter does not fit the model.
pub fn estimate_memory(model: &Model, adapter: &Adapter, options: TunerOptions) -> Result<MemoryEstimate, ModelError> {
    let counting = Device::planning();
    let tuner = Tuner::new(&counting, model, adapter, options)?;
    let checkpoints_activations = tuner.checkpoints_activations();
    let total_bytes = counting.allocated_bytes();
    let values: usize = adapter.pairs.iter().map(LoraPair::parameters).sum();
    let trained = if options.frozen_half { values / 2 } else { values };
    let adapter_bytes = (values + 3 * trained) as u64 * 4;
    let model_bytes = model.tensors.values().map(|t| t.byte_len() as u64).sum();
    let activation_bytes = total_bytes.saturating_sub(adapter_bytes + model_bytes);
    Ok(MemoryEstimate { model_bytes, adapter_bytes, activation_bytes, total_bytes, checkpoints_activations })
}

impl Plan {
    /// What the device is planned for.
    pub fn tuner_options(&self) -> TunerOptions {
        let longest = self.eval.iter().map(|e| e.report.longest).fold(self.train.report.longest, usize::max);
        TunerOptions {
            capacity: self.bounds.into(),
            max_length: longest,
            checkpoint: self.config.checkpoint_activations,
            seed: self.config.seed,
            frozen_half: self.config.starts_as_pissa(),
            anchored: self.config.kl_weight > 0.0,
        }
    }

    /// What tuning `adapter` by this plan needs.
    ///
    /// # Errors
    /// Where the adapter does not fit the model.
    pub fn memory(&self, model: &Model, adapter: &Adapter) -> Result<MemoryEstimate, ModelError> {
        estimate_memory(model, adapter, self.tuner_options())
    }
}

impl From<crate::batches::BatchBounds> for Capacity {
    fn from(bounds: crate::batches::BatchBounds) -> Self {
        Self { tokens: bounds.tokens, trained: bounds.trained, samples: bounds.samples }
    }
}
