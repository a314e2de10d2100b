//! Types of bft-core that this crate is written against; replaced by `pub use bft_core::…` as soon as they land there.
#![allow(missing_docs)]
use bft_formats::*;
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind { Sft, Dft, Bft, BftV3 }
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig { pub kind: LossKind, pub group_size: usize, pub gamma: f32 }
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch { pub tokens: Vec<u32>, pub segments: Vec<u32>, pub trained: Vec<u32>, pub labels: Vec<u32>, pub trained_segments: Vec<u32> }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTotals { pub samples: usize, pub tokens: usize }
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW { pub beta1: f32, pub beta2: f32, pub eps: f32, pub weight_decay: f32, pub max_grad_norm: f32 }
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics { pub loss: f32, pub nll: f32, pub grad_norm: f32, pub tokens: usize, pub skipped: bool, pub bad_tensor: Option<String> }
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState { pub step: u64, pub first_moment: Vec<f32>, pub second_moment: Vec<f32> }
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpoint { Auto, On, Off }
