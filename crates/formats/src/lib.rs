//! Model, adapter, tokenizer and chat-template files: bytes to structs and back, no device.
//!
//! [`Model::open`] takes a folder (`config.json`, safetensors, `tokenizer.json`) or a GGUF file and
//! gives [`ModelConfig`], tensors under Hugging Face names in their file's own format,
//! [`Tokenizer`] and [`ChatTemplate`]. [`EncoderModel::open`] takes the folder of a sentence
//! encoder, and [`EmbeddingModel::open`] either. [`Adapter`] reads and writes PEFT's layout.
//! Everything also works without files: from bytes in memory, and weights from a [`Source`] that
//! reads a range at a time.
//!
//! Files are hostile until parsed: every count, length and offset is checked before it is used or
//! allocated for, and whatever would make the model compute something else than what is implemented
//! is refused by name. Each message is one line that names the file and the thing, what was found,
//! what was expected and what to do.
//!
//! # What a user can be told
//!
//! | where | refused |
//! |---|---|
//! | path | not there; a file that is not GGUF; a folder without `config.json` (naming a `.gguf` in it) |
//! | `config.json` | not JSON; a key missing, of the wrong type or out of range; sizes that contradict each other or are no multiple of 4; model types, activations, rope types, experts, multipliers and quantisations that are not implemented (all but FP8) |
//! | safetensors | truncated, longer than it says, overlapping, mis-shaped, a Git LFS pointer; formats other than F32, F16, BF16 and scaled FP8 (naming the tensor); FP8 scales missing or of another shape; pickles instead |
//! | shards | an index that names files outside its folder, a shard or tensor that is not there |
//! | GGUF header | wrong magic, version or byte order; truncated; counts, lengths, alignment and offsets that cannot be; text that is not UTF-8; keys and tensors there twice |
//! | GGUF model | architectures, tensor types, rope scalings, windows, experts, scales that are not implemented; tensors without a place; parts missing, twice or of another model; metadata missing or of the wrong type |
//! | tensors | missing, of another shape, unknown to the architecture; quantised already, or holding what no block can, where they are to be quantised |
//! | tokenizer | unreadable `tokenizer.json`; GGUF tokenizer models and pre-tokenizers that are not known; tokens, kinds, scores and merges that do not fit together; more tokens than the embedding has rows; none where one is needed |
//! | encoder folder | model types, position embeddings, activations, pooling modes, modules and default prompts that are not implemented; a longest text beyond the positions; a `vocab.txt` without `[CLS]`, `[SEP]` or `[UNK]` |
//! | chat template | does not compile, fails or refuses the roles (in its own words), never ends; none where one is needed |
//! | adapter | a file missing, a pickle; kinds and options of PEFT that are not plain LoRA or rsLoRA; tensors that are no LoRA pair, pairs incomplete or beside `target_modules`; ranks, modules, shapes of another model (naming the module, found and expected) |
//! | export | a folder that is not empty; numbers that the format has no place for; bases whose configuration cannot be written down |
//! | writing | whatever the operating system says, with the path; the old file stays |

mod adapter;
mod bytes;
mod chat;
mod config;
mod encoder;
mod error;
pub mod export;
#[cfg(not(target_arch = "wasm32"))]
mod files;
mod folder;
mod fp8;
pub mod gguf;
pub mod guard;
mod hash;
mod hub;
mod json;
#[cfg(not(target_arch = "wasm32"))]
mod mapped;
mod model;
pub mod npy;
mod open;
mod quantize;
mod random;
mod safetensors;
mod source;
mod stored;
mod tensor;
mod tokenizer;
pub mod weights;

pub use adapter::{Adapter, AdapterConfig, LoraPair};
pub use bytes::Bytes;
pub use chat::{ChatTemplate, Conversation, Message, REASONING, Turns, parse_variables};
pub use config::{
    Architecture, BranchNorms, Gate, LINEAR_MODULES, LayerSpec, LinearModule, MAX_HEAD_DIM, ModelConfig, QkNorm, Rope,
    RopeScaling, module_names,
};
pub use encoder::{
    Activation, EmbeddingModel, EncoderConfig, EncoderFamily, EncoderLayer, EncoderModel, FeedForward, NormPlace,
    Pooling, Positions, SentenceSteps,
};
pub use error::{FormatError, Result};
#[cfg(not(target_arch = "wasm32"))]
pub use files::{TemporaryFolder, remove_leftovers, sha256_file, write_atomic};
pub use hash::{Sha256, sha256_bytes};
pub use hub::HubPlace;
#[cfg(unix)]
pub use mapped::explain_bus_errors;
#[cfg(not(target_arch = "wasm32"))]
pub use mapped::{BUS_ERROR_EXIT, check_maps};
pub use model::Model;
pub use quantize::Quantization;
pub use random::Random;
pub use source::{ReadAt, Source};
pub use tensor::Tensor;
pub use tokenizer::{StreamDecoder, Tokenizer};
pub use weights::{DType, dequantize_row, quantize_row};
