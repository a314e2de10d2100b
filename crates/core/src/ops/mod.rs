//! The operations: one file each, one shader each, one line in [`OPS`].
//!
//! An op's file holds its equation and gradient, its parameter struct, the functions that append it to a
//! [`Recording`](crate::device::Recording), its CPU twin in plain slices, and the cases its tests run.
//! Tests loop over [`OPS`], so an op is tested the moment it is listed.

pub mod case;
pub mod linear;
pub mod rms_norm;

use crate::device::Kernel;
use case::Case;

/// One operation, as tests see it.
#[derive(Debug)]
pub struct Op {
    /// Its name, that of its files.
    pub name: &'static str,
    /// Every kernel it may dispatch.
    pub kernels: &'static [&'static Kernel],
    /// Text substitutions under which the shader is used; `&[&[]]` for a shader without variants.
    pub variants: &'static [crate::device::Defines],
    /// Inputs to test it on: size 1, odd sizes, around a workgroup, model-sized.
    pub cases: fn() -> Vec<Case>,
}

/// Every operation.
pub static OPS: &[&Op] = &[&rms_norm::OP, &linear::OP, &linear::OP_GRADIENT];
