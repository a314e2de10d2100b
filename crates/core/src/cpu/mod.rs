//! The CPU kernels: plain functions on slices, which the ops call.
//!
//! Everything is generic over [`Real`]. f64 is there for gradient checks and takes the short, obviously right road
//! (`reference`); f32 takes the fast one. Both give the same bytes whenever they are given the same input, whatever the
//! number of threads: work is split over the rows and columns of a result, never over the sum that makes one element.
//!
//! Matrices are row-major and dense. `alpha` scales the product; `beta` scales what the output held, and with `beta = 0`
//! the output is written without being read, so that it may hold anything, NaN included.
//!
//! Lengths are asserted: a wrong one is a bug in the calling op, not something a file or a flag can cause.

mod attention;
mod gemm;
mod linear;
mod weight;

pub use attention::{AttentionShape, attention_backward, attention_cached, attention_forward};
pub use gemm::{gemm_nn, gemm_nt, gemm_tn};
pub use linear::{linear_nn, linear_nt};
pub use weight::WeightRef;

use crate::real::Real;

#[cfg(test)]
mod tests;
