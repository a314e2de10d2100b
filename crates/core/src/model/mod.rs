//! The decoder of Llama-like models: weights, LoRA, forward and backward, tuning and inference; and
//! BERT's [`encoder`].
//!
//! Files, in the order in which data flows: [`weights`] and [`lora`] put parameters on a device,
//! [`workspace`] holds every activation, planned before the first step, [`block`] walks the blocks
//! forward and backward, [`tuner`] trains, [`runner`] embeds and scores, and generates in
//! [`slots`]. A block is `attention` and `mlp` on `adapted` linear maps: each of these files, and
//! [`head`], has its weights, what it saves, its scratch, its forward and its backward.

mod adapted;
mod attention;
pub mod batch;
pub mod block;
mod cache;
pub mod dora;
pub mod encoder;
pub mod head;
pub mod lora;
mod mlp;
pub mod parts;
mod plan;
pub mod runner;
pub mod slots;
pub mod tuner;
pub mod weights;
pub mod workspace;

use bft_formats::FormatError;

use crate::device::DeviceError;

/// What can go wrong with a model on a device.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file does not hold what it should.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Sizes that no device holds.
    #[error("{found} {what}, expected at most {most}: use a smaller batch or shorter texts")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many can be.
        most: usize,
    },
    /// A batch does not fit what was planned or does not hang together.
    #[error("batch refused: {0}")]
    Batch(String),
    /// An anchor to a base whose head's logits are no products.
    #[error(
        "kl-weight: the head of this model caps its logits, which an anchor to the base is not made for; leave it out"
    )]
    Anchor,
    /// A state that belongs to another adapter.
    #[error("optimizer state refused: {0}")]
    State(String),
}
