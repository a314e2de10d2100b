//! A model's parameters by name, as they come to the device: each file of a model takes its own.

use std::collections::BTreeMap;

use bft_formats::{FormatError, Model, ModelConfig, Tensor};

use super::ModelError;
use crate::device::{Device, View, Weight};

/// The final norm.
pub(crate) const NORM: &str = "model.norm.weight";

/// Parameters by name, as they come to the device.
pub(crate) struct Parts {
    model: String,
    pub config: ModelConfig,
    /// `[H]` of the final norm as the head has it, where logits have a multiplier.
    pub head_norm: Option<View>,
    matrices: BTreeMap<String, Weight>,
    vectors: BTreeMap<String, View>,
}

impl Parts {
    pub fn of(model: &Model) -> Self {
        Self {
            model: model.name.clone(),
            config: model.config.clone(),
            head_norm: None,
            matrices: BTreeMap::new(),
            vectors: BTreeMap::new(),
        }
    }

    /// Takes a tensor to the device.
    pub fn add(&mut self, device: &Device, tensor: &Tensor) -> Result<(), ModelError> {
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
}

/// One of a model's tensors, by its full name.
///
/// # Errors
/// Where there is none of that name.
pub fn tensor<'m>(model: &'m Model, name: &str) -> Result<&'m Tensor, ModelError> {
    model.tensors.get(name).ok_or_else(|| absent(&model.name, name))
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
