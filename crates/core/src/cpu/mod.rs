//! The CPU kernels: plain functions on slices, which the ops call.
//!
//! Everything is generic over [`Real`]. f64 is there for gradient checks and takes the short,
//! obviously right road (`reference`); f32 takes the fast one. Both give the same bytes whenever
//! they are given the same input, whatever the number of threads: work is split over the rows and
//! columns of a result, never over the sum that makes one element.
//!
//! Matrices are row-major and dense. `alpha` scales the product; `beta` scales what the output
//! held, and with `beta = 0` the output is written without being read, so that it may hold
//! anything, NaN included.
//!
//! Lengths are asserted: a wrong one is a bug in the calling op, not something a file or a flag can
//! cause.

mod attention;
mod dequantize;
mod encoder;
mod gemm;
mod gradient;
mod linear;
mod math;
mod pack;
mod peak;
mod product;
mod scratch;
mod simd;
mod small;
mod split;
mod team;
mod tile;
mod weight;

pub use attention::{
    AttentionInputs, AttentionOutputs, AttentionShape, attention_backward, attention_cached, attention_decode,
    attention_forward,
};
pub use encoder::{LayerNorm, activate, activate_backward};
pub use gemm::{gemm_nn, gemm_nt, gemm_tn};
pub use linear::{linear_nn, linear_nt};
pub use math::{dot, exp_sub_sum, gate_mul, gate_mul_backward, max, soft_cap, sum_exp_sub};
pub use peak::peak_flops;
pub use simd::instructions;
pub use small::MAX_ROWS as FEW_ROWS;
pub use weight::WeightRef;

#[cfg(test)]
mod tests;
