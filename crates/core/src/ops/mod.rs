//! The operations: one file each, one shader each, one line in [`OPS`].
//!
//! An op's file holds its equation and gradient, its parameter struct, the functions that append it
//! to a [`Recording`](crate::device::Recording), its CPU twin in plain slices, and the cases its
//! tests run. Tests loop over [`OPS`], so an op is tested the moment it is listed.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod anchor;
pub mod attention;
pub mod case;
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod gather;
pub mod head;
pub mod layer_norm;
pub mod linear;
pub mod loss_weights;
pub mod pool;
pub mod rms_norm;
pub mod rope;
pub mod scale;
pub mod soft_cap;
pub mod swiglu;

use bft_formats::DType;

use crate::device::{Defines, Kernel, grid_1d};
use case::Case;

/// Invocations in a workgroup of the shaders that take an element, or a chunk of a row, each.
const LANES: usize = 64;

/// Elements that a thread of the CPU takes at a time where an op works element by element.
const CPU_CHUNK: usize = 1 << 14;

/// The grid of a shader that takes `len` items, one an invocation.
fn groups(len: usize) -> [u32; 3] {
    grid_1d(len.div_ceil(LANES))
}

const FORMATS: usize = DType::ALL.len();

/// The fragment that decodes each format.
static WEIGHT_DEFINES: [[(&str, &str); 1]; FORMATS] = {
    let mut defines = [[("WEIGHT", "")]; FORMATS];
    let mut i = 0;
    while i < FORMATS {
        defines[i][0].1 = DType::ALL[i].spec().layout.shader;
        i += 1;
    }
    defines
};

/// One variant of a shader for each format of a frozen weight.
static WEIGHT_VARIANTS: [Defines; FORMATS] = {
    let mut variants: [Defines; FORMATS] = [&[]; FORMATS];
    let mut i = 0;
    while i < FORMATS {
        variants[i] = &WEIGHT_DEFINES[i];
        i += 1;
    }
    variants
};

/// The variant for one format.
fn weight_defines(dtype: DType) -> Defines {
    WEIGHT_VARIANTS[dtype as usize]
}

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
pub static OPS: &[&Op] = &[
    &activation::OP,
    &adamw::OP,
    &add::OP,
    &anchor::OP,
    &attention::OP,
    &dora::OP,
    &dropout::OP,
    &embedding::OP,
    &gather::OP,
    &head::OP,
    &layer_norm::OP,
    &linear::OP,
    &linear::OP_GRADIENT,
    &loss_weights::OP,
    &pool::OP,
    &rms_norm::OP,
    &rope::OP,
    &scale::OP,
    &soft_cap::OP,
    &swiglu::OP,
];
