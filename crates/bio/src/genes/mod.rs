//! Any name of a gene to the gene; genes to texts and vectors.

pub mod baselines;
pub mod encode;
mod excel;
pub mod facts;
pub mod generate;
pub mod list;
pub mod partial;
pub mod profile;
pub mod resolver;
pub mod vectors;
