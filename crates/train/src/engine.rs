//! What a training run asks of the device side: core's `Tuner`, or a test's stand-in that fails on
//! purpose.

use bft_core::{AdamW, Batch, LossConfig, ModelError, OptimizerState, Runner, StepMetrics, StepTotals, Tuner};
use bft_formats::Adapter;

use crate::rows::Origin;

/// Whatever a device can report: lost, out of memory, a shader that does not compile.
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// Refuses numbers of a sample that are not finite: no mean, weight or vector can be made of them.
pub(crate) fn check_finite(numbers: &[f32], origin: &Origin) -> Result<(), EngineError> {
    match numbers.iter().find(|number| !number.is_finite()) {
        None => Ok(()),
        Some(found) => Err(format!(
            "{origin}: the model computes {found}: its weights, or the adapter's, hold numbers that are broken or too large"
        )
        .into()),
    }
}

/// Log-probabilities of a batch's labels.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait LogProbs {
    /// `[R]` log p of each trained token of `batch`, in order.
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError>;
}

/// Logits at a batch's labels.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Logits {
    /// `[R, V]` logits at each trained token of `batch`, in order.
    async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError>;
}

/// An adapter being tuned. Only what reads back from the device is asynchronous.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Tuning {
    /// Norm, clip, AdamW, and a fresh gradient. A step that is not finite changes nothing.
    fn apply(&mut self, lr: f64, optimizer: &AdamW) -> Result<(), EngineError>;
    /// Metrics of every step since the last call, in order; waits for the device.
    async fn drain_metrics(&mut self) -> Result<Vec<StepMetrics>, EngineError>;
    /// The adapter as it is now.
    async fn adapter(&mut self) -> Result<Adapter, EngineError>;
    /// AdamW's moments and step count.
    async fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError>;
    /// Puts back what [`Tuning::optimizer_state`] gave.
    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError>;
}

/// What computes the gradients of a [`Tuning`]: itself, or something around it that shares the work
/// or gives way to others in between.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Engine: LogProbs {
    /// What holds the adapter.
    type Tuning: Tuning;

    /// The adapter that is tuned.
    fn tuning(&mut self) -> &mut Self::Tuning;
    /// Called once, before anything else.
    async fn prepare(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Forward and backward of one micro-batch; adds to the gradient of the step whose totals these
    /// are.
    async fn accumulate(&mut self, batch: &Batch, totals: StepTotals, loss: &LossConfig) -> Result<(), EngineError>;
    /// Called between the last micro-batch of a step and [`Tuning::apply`]: processes that share a
    /// step add up what each has. One process has it all.
    async fn complete_step(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    /// s_b of each sample that was accumulated since the last call; none where nobody looks at
    /// them.
    fn sample_weights(&mut self) -> Vec<f64> {
        Vec::new()
    }
    /// Refuses an adapter that was read back, where it is not what others have.
    fn check_adapter(&self, _: &Adapter) -> Result<(), EngineError> {
        Ok(())
    }
}

/// An engine whose step can be shared by several processes.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Shareable: Engine {
    /// The gradient gathered so far and whatever else of a step adds up.
    async fn step_sums(&mut self) -> Result<Vec<f32>, EngineError>;
    /// Puts sums in the place of what [`Shareable::step_sums`] gave.
    fn set_step_sums(&mut self, sums: &[f32]) -> Result<(), EngineError>;
    /// Counts a micro-batch that another process computes.
    fn pass_over(&mut self);
}

fn boxed(error: ModelError) -> EngineError {
    Box::new(error)
}

impl LogProbs for Runner<'_> {
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        Runner::log_probs(self, batch).await.map_err(boxed)
    }
}

impl Logits for Runner<'_> {
    async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        Runner::logits(self, batch).await.map_err(boxed)
    }
}

impl LogProbs for Tuner<'_> {
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        Tuner::log_probs(self, batch).await.map_err(boxed)
    }
}

impl Engine for Tuner<'_> {
    type Tuning = Self;

    fn tuning(&mut self) -> &mut Self {
        self
    }

    async fn prepare(&mut self) -> Result<(), EngineError> {
        Tuner::prepare(self).await.map_err(boxed)
    }

    async fn accumulate(&mut self, batch: &Batch, totals: StepTotals, loss: &LossConfig) -> Result<(), EngineError> {
        Tuner::accumulate(self, batch, totals, loss).map_err(boxed)
    }
}

impl Tuning for Tuner<'_> {
    fn apply(&mut self, lr: f64, optimizer: &AdamW) -> Result<(), EngineError> {
        Tuner::apply(self, lr, optimizer).map_err(boxed)
    }

    async fn drain_metrics(&mut self) -> Result<Vec<StepMetrics>, EngineError> {
        Tuner::drain_metrics(self).await.map_err(boxed)
    }

    async fn adapter(&mut self) -> Result<Adapter, EngineError> {
        Tuner::adapter(self).await.map_err(boxed)
    }

    async fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError> {
        Tuner::optimizer_state(self).await.map_err(boxed)
    }

    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        Tuner::set_optimizer_state(self, state).map_err(boxed)
    }
}

impl Shareable for Tuner<'_> {
    async fn step_sums(&mut self) -> Result<Vec<f32>, EngineError> {
        Tuner::step_sums(self).await.map_err(boxed)
    }

    fn set_step_sums(&mut self, sums: &[f32]) -> Result<(), EngineError> {
        Tuner::set_step_sums(self, sums).map_err(boxed)
    }

    fn pass_over(&mut self) {
        Tuner::pass_over(self);
    }
}
