//! Model, adapter, tokenizer and chat-template files: bytes to structs and back, no device.

mod adapter;
mod bytes;
mod chat;
mod config;
mod dtype;
mod error;
mod files;
mod folder;
pub mod gguf;
mod json;
mod model;
mod safetensors;
mod tensor;
mod tokenizer;

pub use adapter::{Adapter, AdapterConfig, LoraPair};
pub use bytes::Bytes;
pub use chat::{ChatTemplate, Message};
pub use config::{Architecture, LINEAR_MODULES, ModelConfig, RopeScaling};
pub use dtype::{DType, dequantize_row};
pub use error::{FormatError, Result};
pub use files::sha256_bytes;
#[cfg(not(target_arch = "wasm32"))]
pub use files::{sha256_file, write_atomic};
pub use model::Model;
pub use tensor::Tensor;
pub use tokenizer::{StreamDecoder, Tokenizer};
