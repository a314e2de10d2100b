//! Devices, operations with their gradients, the decoder and the losses of bft.
//!
//! Letters of dimensions, everywhere in this crate and its shaders:
//!
//! | letter | is |
//! |---|---|
//! | N | tokens of a micro-batch, whatever samples they belong to |
//! | S | samples of a micro-batch |
//! | R | trained positions of a micro-batch |
//! | H | hidden_size |
//! | F | intermediate_size |
//! | V | vocab_size |
//! | Q | num_attention_heads |
//! | K | num_key_value_heads |
//! | D | head_dim |
//! | r | rank |
//!
//! Matrices are row-major; a weight `[out, in]` maps x `[N, in]` to x·Wᵀ `[N, out]`.

pub mod cpu;
pub mod device;
pub mod loss;
pub mod model;
pub mod ops;
pub mod real;
pub mod sample;

pub use bft_formats::Pooling;
pub use loss::{GroupSize, LossConfig, LossKind, StepTotals};
pub use model::ModelError;
pub use model::batch::{Batch, Capacity};
pub use model::dora::row_norms;
pub use model::encoder::EncoderRunner;
pub use model::head::head_rows_at_once;
pub use model::parts::tensor;
pub use model::runner::{Runner, RunnerOptions};
pub use model::slots::{Generation, Slots};
pub use model::tuner::{Checkpoint, OptimizerState, StepMetrics, Tuner, TunerOptions};
pub use model::weights::Base;
pub use ops::adamw::AdamW;
