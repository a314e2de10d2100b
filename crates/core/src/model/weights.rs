//! The frozen base on a device, in its file's formats.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_formats::{LINEAR_MODULES, Model, ModelConfig, Tensor};

use super::ModelError;
use crate::device::{Device, View, Weight};
use crate::ops::embedding::rows_per_binding;

/// Index of a linear module within a block: its place in [`LINEAR_MODULES`].
pub(crate) mod module {
    pub const Q: usize = 0;
    pub const K: usize = 1;
    pub const V: usize = 2;
    pub const O: usize = 3;
    pub const GATE: usize = 4;
    pub const UP: usize = 5;
    pub const DOWN: usize = 6;
}

/// A frozen linear map `[out, in]` and its bias `[out]`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<View>,
}

/// One block's frozen parameters.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    /// `[H]`
    pub input_norm: View,
    /// `[H]`
    pub post_attention_norm: View,
    /// `[D]` each, where the architecture normalises heads.
    pub qk_norm: Option<(View, View)>,
    /// In the order of [`LINEAR_MODULES`].
    pub linears: [Linear; 7],
}

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
    /// `[V, H]`; `embedding` itself where tied.
    pub head: Weight,
    /// Rows of `head` that the device binds at once.
    pub head_rows: usize,
}

/// The frozen base on a device, shared by whatever runs on it: tuners, runners, with adapters or without.
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
        let mut parts = Parts::default();
        for tensor in model.tensors.values() {
            parts.add(device, tensor)?;
        }
        parts.assemble(device, model)
    }

    /// As [`Self::load`], but lets the device catch up on the way, so that what waits to be copied stays small, and
    /// others get their turn. `on_progress` hears the bytes done.
    ///
    /// # Errors
    /// Where the device has no room, or a file can no longer be read.
    pub async fn stream(device: &Device, model: &Model, mut on_progress: impl FnMut(u64)) -> Result<Self, ModelError> {
        let mut parts = Parts::default();
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
        parts.assemble(device, model)
    }
}

/// Parameters by name, as they come to the device.
#[derive(Default)]
struct Parts {
    matrices: BTreeMap<String, Weight>,
    vectors: BTreeMap<String, View>,
}

impl Parts {
    fn add(&mut self, device: &Device, tensor: &Tensor) -> Result<(), ModelError> {
        let name = tensor.name.clone();
        if tensor.shape.len() < 2 {
            let vector = device.upload_f32(&name, &tensor.to_f32()?)?;
            self.vectors.insert(name, vector.view());
        } else {
            self.matrices.insert(name, upload(device, tensor)?);
        }
        Ok(())
    }

    fn assemble(self, device: &Device, model: &Model) -> Result<Base, ModelError> {
        let config = model.config.clone();
        // `Model` checks its tensors against its configuration when it is opened.
        let absent = |name: &str| ModelError::Batch(format!("{} has no tensor {name}", model.name));
        let matrix = |name: &str| self.matrices.get(name).cloned().ok_or_else(|| absent(name));
        let vector = |name: &str| self.vectors.get(name).cloned().ok_or_else(|| absent(name));

        let blocks = (0..config.num_hidden_layers).map(|layer| {
            let block = format!("model.layers.{layer}");
            let linear = |index: usize| {
                let name = ModelConfig::linear_name(layer, LINEAR_MODULES[index]);
                Ok::<_, ModelError>(Linear {
                    weight: matrix(&format!("{name}.weight"))?,
                    bias: self.vectors.get(&format!("{name}.bias")).cloned(),
                })
            };
            let qk_norm = if config.qk_norm {
                let norm = |which: &str| vector(&format!("{block}.self_attn.{which}_norm.weight"));
                Some((norm("q")?, norm("k")?))
            } else {
                None
            };
            Ok::<_, ModelError>(BlockWeights {
                input_norm: vector(&format!("{block}.input_layernorm.weight"))?,
                post_attention_norm: vector(&format!("{block}.post_attention_layernorm.weight"))?,
                qk_norm,
                linears: [linear(0)?, linear(1)?, linear(2)?, linear(3)?, linear(4)?, linear(5)?, linear(6)?],
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let embedding = matrix("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { matrix("lm_head.weight")? };
        Ok(Base(Arc::new(Weights {
            embedding_rows: rows_per_binding(device, &embedding),
            head_rows: rows_per_binding(device, &head),
            norm: vector("model.norm.weight")?,
            embedding,
            blocks,
            head,
            config,
        })))
    }
}

/// Takes a matrix to the device. Products make four outputs at a time: a vocabulary that is no multiple of four gets
/// rows of zeros, which the softmax leaves out.
fn upload(device: &Device, tensor: &Tensor) -> Result<Weight, ModelError> {
    let rows = tensor.rows().next_multiple_of(4);
    if rows == tensor.rows() {
        return Ok(device.upload_weight(tensor)?);
    }
    let mut bytes = tensor.bytes()?.to_vec();
    bytes.resize(rows * tensor.dtype.row_bytes(tensor.cols()), 0);
    let padded = Tensor::new(tensor.name.clone(), tensor.dtype, vec![rows, tensor.cols()], bytes)?;
    Ok(device.upload_weight(&padded)?)
}
