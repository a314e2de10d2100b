//! Tuning: micro-batches to gradients to optimizer steps, all on the device.

use std::sync::Arc;

use bft_formats::{Adapter, AdapterConfig, Model};
use serde::{Deserialize, Serialize};

use super::ModelError;
use super::adapted::Dropout;
use super::attention::Keys;
use super::batch::{Batch, BatchBuffers, Capacity, every_class};
use super::block::Pass;
use super::head::{self, HeadBuffers, Purpose};
use super::lora::{Lora, Moments};
use super::plan::{Keep, LongTexts, Plan};
use super::weights::{Base, Weights};
use super::workspace::Workspace;
use crate::device::{Device, DeviceError, Elem, Recording, View};
use crate::loss::{LossConfig, StepTotals};
use crate::ops::adamw::{self, AdamW, BLOCK, STATE};
use crate::ops::loss_weights;

/// Whether blocks are computed again in the backward pass, to save memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpoint {
    /// On where saving every block's activations would take more than [`AUTO_CHECKPOINT_BYTES`].
    #[default]
    Auto,
    /// Only each block's input is kept; a third more work.
    On,
    /// Everything is kept.
    Off,
}

/// Saved activations above which [`Checkpoint::Auto`] computes blocks again.
pub const AUTO_CHECKPOINT_BYTES: u64 = 3 << 29;

/// What a tuner is planned for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TunerOptions {
    /// The largest micro-batch.
    pub capacity: Capacity,
    /// The longest sample, in tokens.
    pub max_length: usize,
    /// Activation checkpointing.
    pub checkpoint: Checkpoint,
    /// Seed of LoRA dropout.
    pub seed: u64,
    /// Whether the second half of every pair's rank stays as it is (PiSSA): it is what the first
    /// half began as, with its sign turned.
    pub frozen_half: bool,
    /// Whether losses may be anchored to the base ([`LossConfig::kl_weight`]).
    pub anchored: bool,
}

impl TunerOptions {
    /// A loss that takes every kernel that a run may.
    fn largest_loss(self) -> LossConfig {
        LossConfig { kl_weight: if self.anchored { 1.0 } else { 0.0 }, ..LossConfig::default() }
    }
}

/// One optimizer step as the device saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics {
    /// The optimized loss of the whole step.
    pub loss: f64,
    /// Mean negative log-likelihood of its trained tokens.
    pub nll: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Trained tokens.
    pub tokens: usize,
    /// The loss or the gradient was not finite, and the step changed nothing.
    pub skipped: bool,
    /// The first tensor whose gradient was not finite.
    pub bad_tensor: Option<String>,
}

/// AdamW's state, laid out as this adapter's factors are on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState {
    /// Steps applied; skipped ones do not count.
    pub step: u64,
    /// Micro-batches seen, which LoRA dropout draws by.
    pub passes: u32,
    /// Bias corrections and step count as the device keeps them.
    pub control: Vec<f32>,
    /// m
    pub first_moment: Vec<f32>,
    /// v
    pub second_moment: Vec<f32>,
}

/// Elements between two rows of metrics: a view's alignment.
const ROW: usize = View::ALIGN;
/// Steps in one buffer of metrics.
const ROWS: usize = 64;

/// An adapter being tuned on a frozen model.
#[derive(Debug)]
pub struct Tuner<'a> {
    device: &'a Device,
    weights: Arc<Weights>,
    lora: Lora,
    config: AdapterConfig,
    moments: Moments,
    workspace: Workspace,
    head: HeadBuffers,
    ids: BatchBuffers,
    optimizer: adamw::Buffers,
    metrics: Vec<View>,
    pending: usize,
    options: TunerOptions,
    keep: Keep,
    passes: u32,
    /// Bounds of the samples in the log-probabilities of the last micro-batch.
    last_bounds: Vec<u32>,
}

impl<'a> Tuner<'a> {
    /// Takes the model and the adapter to the device and plans every buffer.
    ///
    /// # Errors
    /// Where the device has no room, or the adapter's factors do not fit their ranks.
    pub fn new(
        device: &'a Device,
        model: &Model,
        adapter: &Adapter,
        options: TunerOptions,
    ) -> Result<Self, ModelError> {
        options.capacity.check(options.max_length)?;
        Self::on(device, &Base::load(device, model)?, adapter, options)
    }

    /// As [`Self::new`], with a model that is on the device already.
    ///
    /// # Errors
    /// Where the device has no room, or the adapter's factors do not fit their ranks.
    pub fn on(device: &'a Device, base: &Base, adapter: &Adapter, options: TunerOptions) -> Result<Self, ModelError> {
        options.capacity.check(options.max_length)?;
        let weights = Arc::clone(&base.0);
        let config = &weights.config;
        let load = if options.frozen_half { Lora::load_halves } else { Lora::load };
        let lora = load(device, adapter, &weights)?;
        if options.anchored && config.logits_cap.is_some() {
            return Err(ModelError::Anchor);
        }
        let dropout = adapter.config.dropout > 0.0;
        let plan = |device: &Device, keep: Keep| {
            Workspace::new(&Plan {
                device,
                config,
                layout: Some(&lora.layout),
                capacity: options.capacity.tokens,
                positions: options.max_length,
                keep,
                dropout,
            })
        };
        let keep = match options.checkpoint {
            Checkpoint::On => Keep::Inputs,
            Checkpoint::Off => Keep::Everything,
            Checkpoint::Auto => {
                let dry = Device::planning();
                plan(&dry, Keep::Everything)?;
                if dry.allocated_bytes() > AUTO_CHECKPOINT_BYTES { Keep::Inputs } else { Keep::Everything }
            }
        };
        let workspace = plan(device, keep)?;
        let purpose = if options.anchored { Purpose::TrainAnchored } else { Purpose::Train };
        let moments = Moments::new(device, lora.layout.len)?;
        let zeros = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, len)?.view());
        let optimizer = adamw::Buffers {
            parameters: lora.parameters.clone(),
            gradients: moments.gradients.clone(),
            first_moment: moments.first.clone(),
            second_moment: moments.second.clone(),
            partial: zeros("norm of blocks", lora.layout.len.div_ceil(BLOCK) * 2)?,
            totals: zeros("loss totals", 4)?,
            state: zeros("optimizer state", STATE)?,
        };
        Ok(Self {
            head: HeadBuffers::new(device, &weights, options.capacity, purpose)?,
            ids: BatchBuffers::new(device, options.capacity, LongTexts::of(config, options.max_length))?,
            config: adapter.config.clone(),
            metrics: Vec::new(),
            pending: 0,
            passes: 0,
            last_bounds: Vec::new(),
            device,
            weights,
            lora,
            moments,
            workspace,
            optimizer,
            options,
            keep,
        })
    }

    /// Builds the pipelines that tuning will need, one after another, before the run has a buffer:
    /// a driver's compiler may hold more than the run does, and so never holds it beside the run.
    /// Nothing on the CPU.
    ///
    /// # Errors
    /// Where the adapter's factors do not fit their ranks, or the device fails.
    pub async fn compile(
        device: &Device,
        model: &Model,
        adapter: &Adapter,
        options: TunerOptions,
    ) -> Result<(), ModelError> {
        let planning = Device::planning();
        let mut dry = Tuner::new(&planning, model, adapter, options)?;
        let batch = Batch::largest(options.capacity.tokens, options.capacity, options.max_length.max(2));
        let totals = StepTotals { samples: 1, tokens: 1 };
        let rec = dry.record(&batch, totals, &options.largest_loss())?;
        Ok(device.compile(&rec).await?)
    }

    /// Whether blocks are computed again in the backward pass.
    #[must_use]
    pub fn checkpoints_activations(&self) -> bool {
        self.keep == Keep::Inputs
    }

    /// Forward and backward of one micro-batch; adds to the gradient of the step whose totals these
    /// are.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub fn accumulate(&mut self, batch: &Batch, step: StepTotals, loss: &LossConfig) -> Result<(), ModelError> {
        batch.check_trained(self.options.capacity, self.weights.config.vocab_size)?;
        if loss.kl_weight > 0.0 && !self.options.anchored {
            return Err(ModelError::Batch("its loss is anchored to the base, which was not planned for".into()));
        }
        let longest = batch.trained_segments.windows(2).map(|ends| (ends[1] - ends[0]) as usize).max().unwrap_or(0);
        if self.device.is_software() && !loss_weights::software_can(loss, longest) {
            return Err(ModelError::Batch(format!(
                "a sample of {longest} trained tokens with windows of {} takes more rounds of a loop than a software \
                 GPU driver does: use --device cpu, or a smaller --group-size",
                loss.group_size
            )));
        }
        if batch.trained.is_empty() {
            return Ok(());
        }
        let rec = self.record(batch, step, loss)?;
        self.passes = self.passes.wrapping_add(1);
        self.device.run(&rec)?;
        self.last_bounds.clone_from(&batch.trained_segments);
        Ok(())
    }

    /// Records forward and backward of one micro-batch, whose ids it takes to the device.
    fn record(&mut self, batch: &Batch, step: StepTotals, loss: &LossConfig) -> Result<Recording, ModelError> {
        let ids = self.ids.upload(self.device, batch)?;
        let dropout = Dropout { p: self.config.dropout, seed: self.options.seed, pass: self.passes };
        let pass = Pass {
            weights: &self.weights,
            lora: Some(&self.lora),
            gradients: Some(&self.moments.gradients),
            workspace: &self.workspace,
            ids: &ids,
            keys: Keys::Samples,
            dropout: (dropout.p > 0.0).then_some(dropout),
        };
        let mut rec = Recording::new();
        if loss.kl_weight > 0.0 {
            // The base is the same weights with the adapter left out, before the tuned model's pass
            // writes its activations over its.
            let out = Pass { lora: None, gradients: None, dropout: None, ..pass }.forward(&mut rec);
            head::remember(&mut rec, &self.weights, &self.head, &ids, &out);
        }
        let out = pass.forward(&mut rec);
        head::forward(&mut rec, &self.weights, &self.head, &ids, &out, true);
        if let Some(scratch) = &self.workspace.scratch.backward {
            let d = scratch.d.first(out.len());
            head::backward(&mut rec, &self.weights, &self.head, &ids, &self.optimizer.totals, &d, loss, step);
        }
        pass.backward(&mut rec, self.keep == Keep::Inputs);
        Ok(rec)
    }

    /// Before the first step: where the device is to measure (see
    /// [`Device::measure_when_preparing`]), finds the fastest kernels for micro-batches of every
    /// size up to the planned one. All of them, so that a run's choices, and with them its
    /// rounding, are the same when it is repeated. Leaves adapter, gradient and moments as they
    /// are.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&mut self) -> Result<(), ModelError> {
        if !self.device.measures() {
            return Ok(());
        }
        let TunerOptions { capacity, max_length, .. } = self.options;
        let totals = StepTotals { samples: 1, tokens: 1 };
        for tokens in every_class(2, capacity.tokens.max(2)) {
            let batch = Batch::largest(tokens, capacity, max_length.max(2));
            let rec = self.record(&batch, totals, &self.options.largest_loss())?;
            self.device.measure_choices(&rec).await?;
        }
        // By the kernels that every later step takes.
        let mut rec = Recording::new();
        self.lora.record_norms(&mut rec, &self.weights);
        Ok(self.device.run(&rec)?)
    }

    /// One optimizer step with learning rate `lr`; the gradient is zero after it. A step whose loss
    /// or gradient is not finite changes nothing and is counted in the metrics.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn apply(&mut self, lr: f64, optimizer: &AdamW) -> Result<(), ModelError> {
        if self.pending == self.metrics.len() * ROWS {
            self.metrics.push(self.device.alloc("metrics", Elem::F32, ROWS * ROW)?.view());
        }
        let row = self.pending % ROWS * ROW;
        let metrics = self.metrics[self.pending / ROWS].slice(row..row + STATE);
        let mut rec = Recording::new();
        adamw::step(&mut rec, &self.optimizer, &metrics, lr, optimizer);
        self.lora.record_norms(&mut rec, &self.weights);
        self.device.run(&rec)?;
        self.pending += 1;
        Ok(())
    }

    /// Metrics of every step since the last call, in order; waits for the device.
    ///
    /// # Errors
    /// Where the device failed.
    pub async fn drain_metrics(&mut self) -> Result<Vec<StepMetrics>, ModelError> {
        let mut rows = Vec::new();
        for (index, buffer) in self.metrics.iter().enumerate() {
            let count = self.pending.saturating_sub(index * ROWS).min(ROWS);
            if count > 0 {
                let values = self.device.read_f32(&buffer.first(count * ROW)).await?;
                rows.extend(values.chunks_exact(ROW).map(|row| self.step_metrics(row)));
            }
        }
        self.pending = 0;
        self.metrics.truncate(1);
        Ok(rows)
    }

    fn step_metrics(&self, row: &[f32]) -> StepMetrics {
        let tokens = f64::from(row[2]);
        let bad = (row[6] >= 0.0).then(|| row[6] as usize * BLOCK + row[7] as usize);
        StepMetrics {
            loss: f64::from(row[0]),
            nll: f64::from(row[1]) / tokens.max(1.0),
            grad_norm: f64::from(row[4]),
            tokens: tokens as usize,
            skipped: row[5] == 1.0,
            bad_tensor: bad.and_then(|at| self.lora.layout.tensor_at(at)),
        }
    }

    /// log p of the trained tokens of each sample of the last micro-batch that was accumulated,
    /// before its step's update; none after [`Self::log_probs`], which uses the same room.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn last_log_probs(&self) -> Result<Vec<Vec<f64>>, ModelError> {
        let Some(rows) = self.last_bounds.last().filter(|rows| **rows > 0) else {
            return Ok(Vec::new());
        };
        let view = self.head.log_p.first(*rows as usize);
        let log_p = self.device.read_f32(&view).await?;
        let samples = self.last_bounds.windows(2).map(|bounds| {
            let of_sample = &log_p[bounds[0] as usize..bounds[1] as usize];
            of_sample.iter().map(|p| f64::from(*p)).collect()
        });
        Ok(samples.collect())
    }

    /// `[R]` log p of each trained token of a batch under the adapter as it is.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        batch.check(self.options.capacity, self.weights.config.vocab_size)?;
        if batch.trained.is_empty() {
            return Ok(Vec::new());
        }
        self.last_bounds.clear();
        let ids = self.ids.upload(self.device, batch)?;
        let pass = Pass {
            weights: &self.weights,
            lora: Some(&self.lora),
            gradients: None,
            workspace: &self.workspace,
            ids: &ids,
            keys: Keys::Samples,
            dropout: None,
        };
        let mut rec = Recording::new();
        let out = pass.forward(&mut rec);
        head::forward(&mut rec, &self.weights, &self.head, &ids, &out, false);
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&self.head.log_p.first(batch.trained.len())).await?)
    }

    /// The adapter as it is now.
    ///
    /// # Errors
    /// Where the device failed.
    pub async fn adapter(&self) -> Result<Adapter, ModelError> {
        Ok(Adapter { config: self.config.clone(), pairs: self.lora.read(self.device).await? })
    }

    /// The gradient gathered so far, by the adapter's tensors; those of a frozen half have none.
    ///
    /// # Errors
    /// Where the device failed.
    pub async fn gradients(&self) -> Result<Adapter, ModelError> {
        let flat = self.device.read_f32(&self.moments.gradients).await?;
        Ok(Adapter { config: self.config.clone(), pairs: self.lora.layout.pairs(&flat) })
    }

    /// As [`Self::gradients`], flat and without loss from the f64 device.
    #[doc(hidden)]
    pub async fn flat_gradients(&self) -> Result<Vec<f64>, ModelError> {
        Ok(self.device.read_f64(&self.moments.gradients).await?)
    }

    /// The parameters, flat as the gradients are and without loss from the f64 device.
    #[doc(hidden)]
    pub async fn flat_parameters(&self) -> Result<Vec<f64>, ModelError> {
        Ok(self.device.read_f64(&self.lora.parameters).await?)
    }

    /// Overwrites the parameters, flat as the gradients are. DoRA's norms stay what they were, as
    /// they do in the gradient.
    #[doc(hidden)]
    pub fn set_flat_parameters(&mut self, values: &[f64]) -> Result<(), ModelError> {
        Ok(self.device.write_f64(&self.lora.parameters, values)?)
    }

    /// What the step has gathered so far: the flat gradient, then loss, summed NLL, trained tokens
    /// and an unused number. Processes that share a step add these up.
    ///
    /// # Errors
    /// Where the device failed.
    pub async fn step_sums(&self) -> Result<Vec<f32>, ModelError> {
        let mut sums = self.device.read_f32(&self.moments.gradients).await?;
        sums.extend(self.device.read_f32(&self.optimizer.totals).await?);
        Ok(sums)
    }

    /// Puts sums in the place of what [`Self::step_sums`] gave.
    ///
    /// # Errors
    /// Where they belong to another adapter, or the device fails.
    pub fn set_step_sums(&mut self, sums: &[f32]) -> Result<(), ModelError> {
        let (found, len) = (sums.len(), self.lora.layout.len);
        let expected = len + self.optimizer.totals.len();
        if found != expected {
            return Err(ModelError::State(format!("a step's sums are {found} numbers, this adapter needs {expected}")));
        }
        let (gradient, totals) = sums.split_at(len);
        self.device.write_f32(&self.moments.gradients, gradient)?;
        Ok(self.device.write_f32(&self.optimizer.totals, totals)?)
    }

    /// Counts a micro-batch that another process computes, so that LoRA dropout draws for the next
    /// one what it would draw in one process.
    pub fn pass_over(&mut self) {
        self.passes = self.passes.wrapping_add(1);
    }

    /// Loss and summed NLL of the step so far.
    #[doc(hidden)]
    pub async fn totals(&self) -> Result<Vec<f64>, ModelError> {
        Ok(self.device.read_f64(&self.optimizer.totals).await?)
    }

    /// AdamW's moments and counters.
    ///
    /// # Errors
    /// Where the device failed.
    pub async fn optimizer_state(&self) -> Result<OptimizerState, ModelError> {
        let control = self.device.read_f32(&self.optimizer.state).await?;
        Ok(OptimizerState {
            step: control[2] as u64,
            passes: self.passes,
            control,
            first_moment: self.device.read_f32(&self.moments.first).await?,
            second_moment: self.device.read_f32(&self.moments.second).await?,
        })
    }

    /// Puts back what [`Self::optimizer_state`] gave.
    ///
    /// # Errors
    /// Where it belongs to another adapter, or the device fails.
    pub fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), ModelError> {
        for (name, found, expected) in [
            ("control", state.control.len(), STATE),
            ("first_moment", state.first_moment.len(), self.lora.layout.len),
            ("second_moment", state.second_moment.len(), self.lora.layout.len),
        ] {
            if found != expected {
                return Err(ModelError::State(format!("{name} holds {found} numbers, this adapter needs {expected}")));
            }
        }
        self.device.write_f32(&self.optimizer.state, &state.control)?;
        self.device.write_f32(&self.moments.first, &state.first_moment)?;
        self.device.write_f32(&self.moments.second, &state.second_moment)?;
        self.passes = state.passes;
        Ok(())
    }
}
