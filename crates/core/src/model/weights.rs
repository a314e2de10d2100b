//! The frozen base on a device, in its file's formats.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_formats::{FormatError, Model, ModelConfig, Tensor};

use super::ModelError;
use super::block::BlockWeights;
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

/// The frozen base on a device, shared by whatever runs on it: tuners, runners, with adapters or
/// without.
#[derive(Debug, Clone)]
pub struct Base(pub(crate) Arc<Weights>);

const NORM: &str = "model.norm.weight";

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
        parts.assemble(device)
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
        parts.assemble(device)
    }
}

/// Parameters by name, as they come to the device.
pub(crate) struct Parts {
    model: String,
    pub config: ModelConfig,
    /// `[H]` of the head alone, where logits have a multiplier.
    head_norm: Option<View>,
    matrices: BTreeMap<String, Weight>,
    vectors: BTreeMap<String, View>,
}

impl Parts {
    fn of(model: &Model) -> Self {
        Self {
            model: model.name.clone(),
            config: model.config.clone(),
            head_norm: None,
            matrices: BTreeMap::new(),
            vectors: BTreeMap::new(),
        }
    }

    fn add(&mut self, device: &Device, tensor: &Tensor) -> Result<(), ModelError> {
        let name = tensor.name.clone();
        if tensor.shape.len() < 2 {
            let mut values = tensor.to_f32()?;
            let ModelConfig { norm_offset, logits_scale, .. } = self.config;
            if norm_offset != 0.0 && name.ends_with("norm.weight") {
                values.iter_mut().for_each(|value| *value += norm_offset);
            }
            if logits_scale != 1.0 && name == NORM {
                let scaled: Vec<f32> = values.iter().map(|value| value * logits_scale).collect();
                self.head_norm = Some(device.upload_f32("final norm of the head", &scaled)?.view());
            }
            let vector = device.upload_f32(&name, &values)?;
            self.vectors.insert(name, vector.view());
        } else {
            self.matrices.insert(name, upload(device, tensor)?);
        }
        Ok(())
    }

    pub fn matrix(&self, name: &str) -> Result<Weight, ModelError> {
        self.matrices.get(name).cloned().ok_or_else(|| absent(&self.model, name))
    }

    pub fn vector(&self, name: &str) -> Result<View, ModelError> {
        self.optional(name).ok_or_else(|| absent(&self.model, name))
    }

    /// A vector that the configuration need not ask for.
    pub fn optional(&self, name: &str) -> Option<View> {
        self.vectors.get(name).cloned()
    }

    fn assemble(self, device: &Device) -> Result<Base, ModelError> {
        let config = self.config.clone();
        let blocks = (0..config.layers.len()).map(|layer| BlockWeights::take(&self, &config, layer));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let embedding = self.matrix("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { self.matrix("lm_head.weight")? };
        Ok(Base(Arc::new(Weights {
            embedding_rows: rows_per_binding(device, &embedding),
            head_rows: rows_per_binding(device, &head),
            head_norm: match &self.head_norm {
                Some(norm) => norm.clone(),
                None => self.vector(NORM)?,
            },
            norm: self.vector(NORM)?,
            embedding,
            blocks,
            head,
            config,
        })))
    }
}

/// A tensor that is not there although a model's tensors are checked against its configuration when
/// it is opened.
pub(crate) fn absent(model: &str, name: &str) -> ModelError {
    ModelError::Format(FormatError::Missing {
        file: model.to_string(),
        what: format!("tensor {name}"),
        advice: "the model is incomplete; open it again".to_string(),
    })
}

/// Takes a matrix to the device. Products make four outputs at a time: a vocabulary that is no
/// multiple of four gets rows of zeros, which the softmax leaves out.
fn upload(device: &Device, tensor: &Tensor) -> Result<Weight, ModelError> {
    let rows = tensor.rows().next_multiple_of(4);
    if rows == tensor.rows() {
        return Ok(device.upload_weight(tensor)?);
    }
    let bytes = tensor.bytes()?;
    let mut padded = Vec::with_capacity(rows * tensor.dtype.row_bytes(tensor.cols()));
    padded.extend_from_slice(&bytes);
    bytes.release();
    padded.resize(padded.capacity(), 0);
    let padded = Tensor::new(tensor.name.clone(), tensor.dtype, vec![rows, tensor.cols()], padded)?;
    Ok(device.upload_weight(&padded)?)
}
