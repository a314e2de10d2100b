//! The frozen base on a device, in its file's formats.

use std::sync::Arc;

use bft_formats::{Model, ModelConfig};

use super::ModelError;
use super::adapted::Linear;
use super::parts::{NORM, Parts};
use super::{attention, mlp};
use crate::device::{Device, View, Weight};
use crate::ops::embedding::rows_per_binding;

/// Every frozen parameter.
#[derive(Debug)]
pub(crate) struct Weights {
    pub config: ModelConfig,
    /// `[V, H]`
    pub embedding: Weight,
    /// Rows of `embedding` that the device binds at once.
    pub embedding_rows: usize,
    pub blocks: Vec<BlockWeights>,
    /// `[H]`
    pub norm: View,
    /// `[H]` the final norm as the head has it, with the multiplier of logits.
    pub head_norm: View,
    /// `[V, H]`; `embedding` itself where tied.
    pub head: Weight,
    /// Rows of `head` that the device binds at once.
    pub head_rows: usize,
}

/// One block's frozen parameters.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    pub attention: attention::Weights,
    pub mlp: mlp::Weights,
}

impl BlockWeights {
    pub fn take(parts: &Parts, config: &ModelConfig, layer: usize) -> Result<Self, ModelError> {
        Ok(Self {
            attention: attention::Weights::take(parts, config, layer)?,
            mlp: mlp::Weights::take(parts, config, layer)?,
        })
    }

    /// A frozen map by its place in [`LINEAR_MODULES`](bft_formats::LINEAR_MODULES).
    pub fn linear(&self, map: usize) -> &Linear {
        match map {
            0..4 => self.attention.linear(map),
            _ => self.mlp.linear(map - 4),
        }
    }
}

/// The frozen base on a device, shared by whatever runs on it: tuners, runners, with adapters or
/// without.
#[derive(Debug, Clone)]
pub struct Base(pub(crate) Arc<Weights>);

/// Bytes that may be on their way to a device at once.
const IN_FLIGHT: u64 = 32 << 20;

impl Base {
    /// Takes every weight to the device.
    ///
    /// # Errors
    /// Where the device has no room, or a file can no longer be read.
    pub fn load(device: &Device, model: &Model) -> Result<Self, ModelError> {
        let mut parts = Parts::of(model);
        for tensor in model.tensors.values() {
            parts.add(device, tensor)?;
        }
        Weights::assemble(device, &parts)
    }

    /// As [`Self::load`], but lets the device catch up on the way, so that what waits to be copied
    /// stays small, and others get their turn. `on_progress` hears the bytes done.
    ///
    /// # Errors
    /// Where the device has no room, or a file can no longer be read.
    pub async fn stream(device: &Device, model: &Model, mut on_progress: impl FnMut(u64)) -> Result<Self, ModelError> {
        let mut parts = Parts::of(model);
        let (mut done, mut waited) = (0, 0);
        for tensor in model.tensors.values() {
            parts.add(device, tensor)?;
            done += tensor.byte_len() as u64;
            if done - waited >= IN_FLIGHT {
                waited = done;
                device.wait().await?;
            }
            on_progress(done);
        }
        device.wait().await?;
        Weights::assemble(device, &parts)
    }
}

impl Weights {
    fn assemble(device: &Device, parts: &Parts) -> Result<Base, ModelError> {
        let config = parts.config.clone();
        let blocks = (0..config.layers.len()).map(|layer| BlockWeights::take(parts, &config, layer));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let embedding = parts.matrix("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { parts.matrix("lm_head.weight")? };
        Ok(Base(Arc::new(Self {
            embedding_rows: rows_per_binding(device, &embedding),
            head_rows: rows_per_binding(device, &head),
            head_norm: match &parts.head_norm {
                Some(norm) => norm.clone(),
                None => parts.vector(NORM)?,
            },
            norm: parts.vector(NORM)?,
            embedding,
            blocks,
            head,
            config,
        })))
    }
}
