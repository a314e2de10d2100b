//! The tasks that gene vectors and tuned models are judged by, each with its baselines.

pub mod celltype;
pub mod interaction;
pub mod perturbation;
pub mod process;
