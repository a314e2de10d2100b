//! Gradient norm, clipping and AdamW (arXiv 1711.05101) over all trained parameters as one flat
//! array.
//!
//! Step t with gradient g, learning rate η and weight decay λ:
//! - g ← g · min(1, max_norm / (‖g‖ + 1e-6)), where max_norm > 0
//! - m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²
//! - θ ← θ − η(λθ + (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε))
//!
//! A step whose gradient or loss is not finite changes nothing: moments, parameters and t stay, and
//! the step's row of metrics says so. All of it happens on the device; the host reads the metrics
//! when it wants to.
//!
//! `state [8]`: 1−β₁ᵗ, 1−β₂ᵗ, t, clip factor, 1 where this step is applied. 1−βᵗ is kept by its
//! recurrence c ← βc + (1−β), which loses nothing where β is near 1. `metrics [8]` of a step: loss,
//! summed NLL, trained tokens, unused, norm before clipping, 1 where skipped, block of the first
//! bad element (−1: none), its place in the block.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::device::{Call, Recording, View, grid_1d, kernels, params};
use crate::real::Real;

/// Settings of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 leaves the gradient as it is.
    pub max_grad_norm: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0 }
    }
}

/// Elements summed by one workgroup.
pub const BLOCK: usize = 4096;

/// Length of `state` and of a row of metrics.
pub const STATE: usize = 8;

params! {
    struct Params {
        len: u32,
        blocks: u32,
        lr: f32,
        beta1: f32,
        beta2: f32,
        one_minus_beta1: f32,
        one_minus_beta2: f32,
        eps: f32,
        weight_decay: f32,
        max_norm: f32,
    }
}

kernels! { KERNELS of Params:
    NORM = "adamw"::norm(gradient: Read, partial: Write) => norm_cpu;
    CONTROL = "adamw"::control(partials: Read, totals: ReadWrite, state: ReadWrite, metrics: Write) => control_cpu;
    UPDATE = "adamw"::update(
        control_state: Read, parameters: ReadWrite, gradients: ReadWrite, first_moment: ReadWrite,
        second_moment: ReadWrite
    ) => update_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "adamw", kernels: KERNELS, variants: &[&[]], cases };

/// What a step reads and writes.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// `[P]` θ.
    pub parameters: View,
    /// `[P]` g; zero after the step.
    pub gradients: View,
    /// `[P]` m.
    pub first_moment: View,
    /// `[P]` v.
    pub second_moment: View,
    /// `[ceil(P / BLOCK), 2]` scratch.
    pub partial: View,
    /// `[4]` loss, summed NLL and trained tokens of the step; zero after it.
    pub totals: View,
    /// `[STATE]`, zero before the first step.
    pub state: View,
}

/// One optimizer step; `metrics` `[STATE]` receives its row.
pub fn step(rec: &mut Recording, buffers: &Buffers, metrics: &View, lr: f64, settings: &AdamW) {
    let len = buffers.parameters.len();
    let blocks = len.div_ceil(BLOCK);
    let params = Params {
        len: len as u32,
        blocks: blocks as u32,
        lr: lr as f32,
        beta1: settings.beta1 as f32,
        beta2: settings.beta2 as f32,
        one_minus_beta1: (1.0 - settings.beta1) as f32,
        one_minus_beta2: (1.0 - settings.beta2) as f32,
        eps: settings.eps as f32,
        weight_decay: settings.weight_decay as f32,
        max_norm: settings.max_grad_norm as f32,
    };
    let Buffers { parameters, gradients, first_moment, second_moment, partial, totals, state } = buffers;
    rec.dispatch(&NORM, &params, [gradients, partial], grid_1d(blocks));
    rec.dispatch(&CONTROL, &params, [partial, totals, state, metrics], [1, 1, 1]);
    rec.dispatch(&UPDATE, &params, [state, parameters, gradients, first_moment, second_moment], groups(len));
}

fn norm_cpu<T: Real>(call: Call<'_, T>) {
    let [gradient, partial] = call.args();
    let blocks = gradient.read().par_chunks(BLOCK).zip(partial.write().par_chunks_exact_mut(2));
    blocks.for_each(|(gradient, partial)| {
        let bad = gradient.iter().position(|g| !g.is_finite());
        partial[0] = gradient.iter().filter(|g| g.is_finite()).map(|g| *g * *g).sum();
        partial[1] = T::from_f64(bad.unwrap_or(BLOCK) as f64);
    });
}

fn control_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [partials, totals, state, metrics] = call.args();
    let (partials, totals, state, metrics) = (partials.read(), totals.write(), state.write(), metrics.write());
    let blocks = || partials.chunks_exact(2).take(params.blocks as usize);
    let norm = blocks().map(|block| block[0]).sum::<T>().sqrt();
    let bad = blocks().position(|block| block[1] < T::from_f64(BLOCK as f64));
    let skip = bad.is_some() || !norm.is_finite() || !totals[0].is_finite();
    if !skip {
        state[0] = state[0] * T::from_f32(params.beta1) + T::from_f32(params.one_minus_beta1);
        state[1] = state[1] * T::from_f32(params.beta2) + T::from_f32(params.one_minus_beta2);
        state[2] += T::ONE;
    }
    let max_norm = T::from_f32(params.max_norm);
    let clip = if max_norm > T::ZERO { T::ONE.min(max_norm / (norm + T::from_f32(1e-6))) } else { T::ONE };
    state[3] = clip;
    state[4] = if skip { T::ZERO } else { T::ONE };
    metrics[..4].copy_from_slice(&totals[..4]);
    totals.fill(T::ZERO);
    metrics[4] = norm;
    metrics[5] = T::ONE - state[4];
    metrics[6] = bad.map_or(-T::ONE, |block| T::from_f64(block as f64));
    metrics[7] = bad.map_or(T::ZERO, |block| partials[2 * block + 1]);
}

fn update_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [state, parameters, gradients, first, second] = call.args();
    let state = state.read();
    let number = T::from_f32;
    let (beta1, beta2, lr) = (number(params.beta1), number(params.beta2), number(params.lr));
    let (rest1, rest2) = (number(params.one_minus_beta1), number(params.one_minus_beta2));
    let (eps, decay) = (number(params.eps), number(params.weight_decay));
    let moments = first.write().par_chunks_mut(CPU_CHUNK).zip(second.write().par_chunks_mut(CPU_CHUNK));
    let parameters = parameters.write().par_chunks_mut(CPU_CHUNK).zip(gradients.write().par_chunks_mut(CPU_CHUNK));
    parameters.zip(moments).for_each(|((parameters, gradients), (first, second))| {
        if state[4] == T::ONE {
            let moments = first.iter_mut().zip(second);
            for ((parameter, gradient), (m, v)) in parameters.iter_mut().zip(&*gradients).zip(moments) {
                let g = *gradient * state[3];
                *m = beta1 * *m + rest1 * g;
                *v = beta2 * *v + rest2 * g * g;
                let step = (*m / state[0]) / ((*v / state[1]).sqrt() + eps);
                *parameter = *parameter - lr * (decay * *parameter + step);
            }
        }
        gradients.fill(T::ZERO);
    });
}

fn cases() -> Vec<Case> {
    let case = |label: &str, len: usize, gradient: Fill, max_grad_norm: f64| {
        let blocks = len.div_ceil(BLOCK);
        let settings = AdamW { max_grad_norm, ..AdamW::default() };
        Case::new(format!("{label}, {len} parameters"), move |rec, t| {
            let buffers = Buffers {
                parameters: t.view("parameters").clone(),
                gradients: t.view("gradients").clone(),
                first_moment: t.view("first_moment").clone(),
                second_moment: t.view("second_moment").clone(),
                partial: t.view("partial").clone(),
                totals: t.view("totals").clone(),
                state: t.view("state").clone(),
            };
            step(rec, &buffers, t.view("metrics"), 1e-3, &settings);
        })
        .input("parameters", &[len], Fill::Random(1.0))
        .updates("parameters")
        .input("gradients", &[len], gradient)
        .updates("gradients")
        .input("first_moment", &[len], Fill::Random(0.1))
        .updates("first_moment")
        .input("second_moment", &[len], Fill::Between(0.0, 0.1))
        .updates("second_moment")
        .input("partial", &[blocks, 2], Fill::Poison)
        .input("totals", &[4], Fill::Values(vec![1.5, 20.0, 12.0, 0.0]))
        .updates("totals")
        .input("state", &[STATE], Fill::Values(vec![0.1, 0.001, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
        .updates("state")
        .output("metrics", &[STATE])
    };
    let mut bad = vec![0.5; 9000];
    bad[8200] = f32::NAN;
    bad[8300] = f32::INFINITY;
    vec![
        case("one", 1, Fill::Random(1.0), 1.0),
        case("clipped", 63, Fill::Random(1.0), 1.0),
        case("not clipped", 65, Fill::Random(1e-3), 1.0),
        case("clipping off", 4097, Fill::Random(1.0), 0.0),
        case("several blocks", 20_000, Fill::Random(1.0), 1.0),
        case("a bad gradient", 9000, Fill::Values(bad), 1.0),
    ]
}
