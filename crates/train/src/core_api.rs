//! Types of bft-core that this crate is written against; replaced by `pub use bft_core::…` as soon as they land there.
#![allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    Sft,
    Dft,
    Bft,
    BftV3,
}
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    pub kind: LossKind,
    pub group_size: usize,
    pub gamma: f32,
}
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub segments: Vec<u32>,
    pub trained: Vec<u32>,
    pub labels: Vec<u32>,
    pub trained_segments: Vec<u32>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTotals {
    pub samples: usize,
    pub tokens: usize,
}
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub max_grad_norm: f32,
}
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    pub loss: f32,
    pub nll: f32,
    pub grad_norm: f32,
    pub tokens: usize,
    pub skipped: bool,
    pub bad_tensor: Option<String>,
}
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    pub step: u64,
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpoint {
    Auto,
    On,
    Off,
}
/// Host losses.
pub mod loss {
    use super::LossKind;
    pub fn token_weights(kind: LossKind, lp: &[f64], g: usize) -> Vec<f64> {
        let p: Vec<f64> = lp.iter().map(|l| l.exp()).collect();
        match kind {
            LossKind::Sft => vec![1.0; p.len()],
            LossKind::Dft | LossKind::Bft => p,
            LossKind::BftV3 => confidences(&p, g)
                .iter()
                .zip(&p)
                .map(|(c, p)| (p / (c + 1e-8)).clamp(0.0, 1.0))
                .collect(),
        }
    }
    fn confidences(p: &[f64], g: usize) -> Vec<f64> {
        (0..p.len())
            .map(|t| {
                let s = t as i64 - (g / 2) as i64;
                let a = s.max(0) as usize;
                let b = ((s + g as i64) as usize).min(p.len());
                p[a..b].iter().sum::<f64>() / (b - a) as f64
            })
            .collect()
    }
    pub fn sample_weight(kind: LossKind, lp: &[f64], g: usize, gamma: f64) -> f64 {
        if lp.is_empty() {
            return 0.0;
        }
        match kind {
            LossKind::Sft | LossKind::Dft => 1.0,
            LossKind::Bft => {
                let w = g.min(lp.len());
                let m = lp
                    .windows(w)
                    .map(|x| x.iter().sum::<f64>() / w as f64)
                    .fold(f64::INFINITY, f64::min);
                1.0 - m.exp().clamp(0.0, 1.0).powf(gamma)
            }
            LossKind::BftV3 => {
                let p: Vec<f64> = lp.iter().map(|l| l.exp()).collect();
                1.0 - confidences(&p, g).into_iter().fold(f64::INFINITY, f64::min)
            }
        }
    }
}
