//! Inference: embeddings, log-probabilities and generation with a KV cache.

use std::sync::Arc;

use bft_formats::{Adapter, Model, Pooling};

use super::ModelError;
use super::attention::Keys;
use super::batch::{Batch, BatchBuffers, BatchViews, Capacity, every_class};
use super::block::Pass;
use super::cache::{Cache, NewTokens};
use super::head::{self, HeadBuffers, Purpose};
use super::lora::Lora;
use super::plan::{Keep, LongTexts, Plan};
use super::slots::{Generation, Slots};
use super::weights::{Base, Weights};
use super::workspace::Workspace;
use crate::device::{Device, Elem, Recording, View};
use crate::ops::{pool, rms_norm};

/// What a runner is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerOptions {
    /// The largest batch; for generation, `tokens` is the longest piece of a prompt taken at once,
    /// and `trained` the number of texts that are written together.
    pub capacity: Capacity,
    /// The longest text, prompt and answer together.
    pub max_length: usize,
}

/// A model, with an adapter or without, ready to run.
#[derive(Debug)]
pub struct Runner<'a> {
    pub(super) device: &'a Device,
    pub(super) weights: Arc<Weights>,
    lora: Option<Lora>,
    workspace: Workspace,
    pub(super) head: HeadBuffers,
    pub(super) ids: BatchBuffers,
    pub(super) options: RunnerOptions,
    pub(super) long: Option<LongTexts>,
    /// `[tokens, H]`
    normed: View,
    /// `[samples, H]`
    pooled: View,
}

impl<'a> Runner<'a> {
    /// Takes the model, and the adapter where there is one, to the device.
    ///
    /// # Errors
    /// Where the device has no room, or the adapter's factors do not fit their ranks.
    pub fn new(
        device: &'a Device,
        model: &Model,
        adapter: Option<&Adapter>,
        options: RunnerOptions,
    ) -> Result<Self, ModelError> {
        options.capacity.check(options.max_length)?;
        Self::on(device, &Base::load(device, model)?, adapter, options)
    }

    /// As [`Self::new`], with a model that is on the device already.
    ///
    /// # Errors
    /// Where the device has no room, or the adapter's factors do not fit their ranks.
    pub fn on(
        device: &'a Device,
        base: &Base,
        adapter: Option<&Adapter>,
        options: RunnerOptions,
    ) -> Result<Self, ModelError> {
        options.capacity.check(options.max_length)?;
        let weights = Arc::clone(&base.0);
        let config = &weights.config;
        let lora = adapter.map(|adapter| Lora::load(device, adapter, &weights)).transpose()?;
        let layout = lora.as_ref().map(|lora| &lora.layout);
        let workspace = Workspace::new(&Plan {
            device,
            config,
            layout,
            capacity: options.capacity.tokens,
            positions: options.max_length,
            keep: Keep::Nothing,
            dropout: false,
        })?;
        let h = config.hidden_size;
        let long = LongTexts::of(config, options.max_length);
        Ok(Self {
            long,
            head: HeadBuffers::new(device, &weights, options.capacity, Purpose::Score)?,
            ids: BatchBuffers::new(device, options.capacity, long)?,
            normed: device.alloc("final norm", Elem::F32, options.capacity.tokens * h)?.view(),
            pooled: device.alloc("vectors", Elem::F32, options.capacity.samples * h)?.view(),
            device,
            weights,
            lora,
            workspace,
            options,
        })
    }

    fn pass<'b>(&'b self, ids: &'b BatchViews, keys: Keys<'b>) -> Pass<'b> {
        Pass {
            weights: &self.weights,
            lora: self.lora.as_ref(),
            gradients: None,
            workspace: &self.workspace,
            ids,
            keys,
            dropout: None,
        }
    }

    /// `[R]` log p of each trained token of a batch.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        batch.check(self.options.capacity, self.weights.config.vocab_size)?;
        if batch.trained.is_empty() {
            return Ok(Vec::new());
        }
        let rec = self.record_scores(batch)?;
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&self.head.log_p.first(batch.trained.len())).await?)
    }

    /// `[R, V]` logits of a batch's trained tokens, for what their log-probabilities do not tell.
    /// Takes 4·R·V bytes on the device and as many here: give small batches.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        batch.check(self.options.capacity, self.weights.config.vocab_size)?;
        let rows = batch.trained.len();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let logits = self.device.alloc("logits", Elem::F32, rows * self.weights.head.rows())?.view();
        let ids = self.ids.upload(self.device, batch)?;
        let mut rec = Recording::new();
        let out = self.pass(&ids, Keys::Samples).forward(&mut rec);
        head::logits(&mut rec, &self.weights, &self.head, &ids, &out, &logits);
        self.device.run(&rec)?;
        Ok(head::rows_of_logits(&self.weights, self.device.read_f32(&logits).await?, rows))
    }

    /// Records the pass to a batch's log-probabilities.
    fn record_scores(&self, batch: &Batch) -> Result<Recording, ModelError> {
        let ids = self.ids.upload(self.device, batch)?;
        let mut rec = Recording::new();
        let out = self.pass(&ids, Keys::Samples).forward(&mut rec);
        head::forward(&mut rec, &self.weights, &self.head, &ids, &out, false);
        Ok(rec)
    }

    /// Before the first log-probabilities: where the device is to measure (see
    /// [`Device::measure_when_preparing`]), finds the fastest kernels for batches of every size up
    /// to the planned one.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare_scores(&mut self) -> Result<(), ModelError> {
        if self.device.measures() && self.options.capacity.trained > 0 {
            // One token has no next one.
            for tokens in every_class(2, self.options.capacity.tokens) {
                let rec = self.record_scores(&self.largest(tokens))?;
                self.device.measure_choices(&rec).await?;
            }
        }
        Ok(())
    }

    /// As [`Self::prepare_scores`], before the first embedding or hidden states.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare_vectors(&mut self) -> Result<(), ModelError> {
        if self.device.measures() {
            for tokens in every_class(1, self.options.capacity.tokens) {
                let mut rec = Recording::new();
                self.record_hidden(&mut rec, &self.largest(tokens))?;
                self.device.measure_choices(&rec).await?;
            }
        }
        Ok(())
    }

    fn largest(&self, tokens: usize) -> Batch {
        Batch::largest(tokens, self.options.capacity, self.options.max_length)
    }

    /// `[N, H]` hidden states after the final norm.
    ///
    /// # Errors
    /// Where the batch does not fit the plan or the device fails.
    pub async fn hidden_states(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let mut rec = Recording::new();
        let (_, normed) = self.record_hidden(&mut rec, batch)?;
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&normed).await?)
    }

    /// `[S, H]` a vector for each sample of a batch, from the hidden states after the final norm.
    ///
    /// # Errors
    /// Where the batch does not fit the plan, a sample has no token, or the device fails.
    pub async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, ModelError> {
        batch.check_every_sample()?;
        let mut rec = Recording::new();
        let (ids, normed) = self.record_hidden(&mut rec, batch)?;
        let h = self.weights.config.hidden_size;
        let pooled = self.pooled.first((ids.segments.len() - 1) * h);
        pool::forward(&mut rec, &ids.segments, &normed, &pooled, h, pooling);
        self.device.run(&rec)?;
        Ok(self.device.read_f32(&pooled).await?)
    }

    /// Uploads a batch and records the pass to its normalised hidden states.
    fn record_hidden(&self, rec: &mut Recording, batch: &Batch) -> Result<(BatchViews, View), ModelError> {
        let config = &self.weights.config;
        batch.check(self.options.capacity, config.vocab_size)?;
        let ids = self.ids.upload(self.device, batch)?;
        let out = self.pass(&ids, Keys::Samples).forward(rec);
        let normed = self.normed.first(out.len());
        rms_norm::forward(rec, &out, &self.weights.norm, &normed, config.hidden_size, config.rms_norm_eps);
        Ok((ids, normed))
    }

    /// Starts a text.
    ///
    /// # Errors
    /// Where the device has no room for the cache.
    pub fn generation(&self) -> Result<Generation<'_, 'a>, ModelError> {
        Ok(Generation(self.slots(1)?))
    }

    /// Room for so many texts at once: no more than tokens and trained tokens are planned for.
    ///
    /// # Errors
    /// Where more are asked for, or the device has no room for the cache.
    pub fn slots(&self, count: usize) -> Result<Slots<'_, 'a>, ModelError> {
        Slots::new(self, count)
    }

    /// A pass whose tokens go to a cache.
    pub(super) fn cached_pass<'b>(&'b self, ids: &'b BatchViews, cache: &'b Cache, new: &'b NewTokens) -> Pass<'b> {
        self.pass(ids, Keys::Cached { cache, new })
    }
}
