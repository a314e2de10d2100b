//! The frozen base on a device, in its file's formats.

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

impl Weights {
    pub fn load(device: &Device, model: &Model) -> Result<Self, ModelError> {
        let config = model.config.clone();
        let tensor = |name: &str| -> Result<&Tensor, ModelError> {
            // `Model` checks its tensors against its configuration when it is opened.
            model
                .tensors
                .get(name)
                .ok_or_else(|| ModelError::Batch(format!("{} has no tensor {name}", model.name)))
        };
        let matrix = |name: &str| Ok::<_, ModelError>(device.upload_weight(tensor(name)?)?);
        let vector = |name: &str| {
            Ok::<_, ModelError>(device.upload_f32(name, &tensor(name)?.to_f32())?.view())
        };

        let blocks = (0..config.num_hidden_layers).map(|layer| {
            let block = format!("model.layers.{layer}");
            let linear = |index: usize| {
                let name = ModelConfig::linear_name(layer, LINEAR_MODULES[index]);
                let bias = format!("{name}.bias");
                let bias = model
                    .tensors
                    .contains_key(&bias)
                    .then(|| vector(&bias))
                    .transpose()?;
                Ok::<_, ModelError>(Linear {
                    weight: matrix(&format!("{name}.weight"))?,
                    bias,
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
                linears: [
                    linear(0)?,
                    linear(1)?,
                    linear(2)?,
                    linear(3)?,
                    linear(4)?,
                    linear(5)?,
                    linear(6)?,
                ],
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        // Products make four outputs at a time: a vocabulary that is no multiple of four gets rows of zeros, which the
        // softmax leaves out.
        let vocabulary = |name: &str| {
            let tensor = tensor(name)?;
            let rows = tensor.rows().next_multiple_of(4);
            if rows == tensor.rows() {
                return Ok::<_, ModelError>(device.upload_weight(tensor)?);
            }
            let mut bytes = tensor.data.to_vec();
            bytes.resize(rows * tensor.dtype.row_bytes(tensor.cols()), 0);
            let padded = Tensor::new(name, tensor.dtype, vec![rows, tensor.cols()], bytes.into())?;
            Ok(device.upload_weight(&padded)?)
        };
        let embedding = vocabulary("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            vocabulary("lm_head.weight")?
        };
        Ok(Self {
            embedding_rows: rows_per_binding(device, &embedding),
            head_rows: rows_per_binding(device, &head),
            norm: vector("model.norm.weight")?,
            embedding,
            blocks,
            head,
            config,
        })
    }
}
