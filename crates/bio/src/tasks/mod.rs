//! The tasks that gene vectors and tuned models are judged by, each with its baselines.
//!
//! [`Task`] is the shape of those that judge vectors. Process naming judges texts, and multiple
//! choice likelihoods; they have no folds.

pub mod celltype;
pub mod interaction;
pub mod mcq;
pub mod perturbation;
pub mod process;
mod shape;

pub use shape::{Options, Task};
