//! Every activation, planned before the first step.

use bft_formats::ModelConfig;

use super::batch::Capacity;
use super::lora::Layout;
use crate::device::{Device, DeviceError, Elem, View};

/// What a block's backward pass needs of its forward pass. Norms and the gated activation are made again: they cost
/// a pass over memory, and keeping them a third more room.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    /// `[N, Q·D]` after rope, and before head norm and rope where the architecture normalises heads.
    pub q: View,
    pub q_raw: Option<View>,
    /// `[N, K·D]` likewise.
    pub k: View,
    pub k_raw: Option<View>,
    /// `[N, K·D]`
    pub v: View,
    /// `[N, Q·D]` output of attention.
    pub o: View,
    /// `[N, Q]` log-sum-exp of each query's scores.
    pub lse: View,
    /// `[N, H]` residual stream between attention and MLP.
    pub mid: View,
    /// `[N, F]`
    pub gate: View,
    /// `[N, F]`
    pub up: View,
    /// `[N, r]` x·Aᵀ of each adapted module.
    pub xa: [Option<View>; 7],
}

/// Buffers that every block writes anew.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `[N, H]` normalised input of attention or MLP.
    pub norm: View,
    /// `[N, F]` gated activation; backward, then the gradient of gate.
    pub act: View,
    /// `[N, H]` a branch's output before it joins the residual stream; backward, the gradient of a norm.
    pub branch: View,
    /// Only where gradients are taken.
    pub backward: Option<BackwardScratch>,
    /// `[N, max(H, F, Q·D)]` a module's input after dropout, where there is dropout.
    pub dropped: Option<View>,
}

/// Scratch of the backward pass.
#[derive(Debug)]
pub(crate) struct BackwardScratch {
    /// `[N, H]` gradient of the residual stream.
    pub d: View,
    /// `[N, F]` each
    pub d_act: View,
    pub d_up: View,
    /// `[N, Q·D]` each
    pub d_o: View,
    pub dq: View,
    pub dq_raw: Option<View>,
    /// `[N, K·D]` each
    pub dk: View,
    pub dk_raw: Option<View>,
    pub dv: View,
    /// `[N, Q, 2]` of attention
    pub stats: View,
    /// `[N, r]`
    pub dxa: View,
    /// `[N, max in]` gradient of a dropped-out input, where there is dropout.
    pub d_dropped: Option<View>,
}

/// What the passes of a run keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: inference.
    Nothing,
    /// Each block's input alone; the rest is made again in the backward pass (activation checkpointing).
    Inputs,
    /// All of [`Saved`] of each block.
    Everything,
}

/// Buffers of the decoder's passes.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// `[N, H]` input of each block, and the last one's output; two that take turns where nothing is kept.
    pub inputs: Vec<View>,
    /// One for each block, or one for all.
    pub saved: Vec<Saved>,
    pub scratch: Scratch,
    /// `[positions, D]` of [`crate::ops::rope::table`].
    pub cos_sin: View,
}

impl Workspace {
    pub fn new(
        device: &Device,
        config: &ModelConfig,
        layout: Option<&Layout>,
        capacity: Capacity,
        positions: usize,
        keep: Keep,
        dropout: bool,
    ) -> Result<Self, DeviceError> {
        let n = capacity.tokens;
        let (h, f) = (config.hidden_size, config.intermediate_size);
        let q_dim = config.num_attention_heads * config.head_dim;
        let kv_dim = config.num_key_value_heads * config.head_dim;
        let zeros = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, len)?.view());
        let raw = |label: &str, len: usize| config.qk_norm.then(|| zeros(label, len)).transpose();
        let layers = config.num_hidden_layers;

        let saved = |layer: usize| {
            let mut xa = [const { None }; 7];
            if let Some(layout) = layout {
                for (module, xa) in xa.iter_mut().enumerate() {
                    // A set that serves all blocks is as wide as the widest of them.
                    let ranks = (0..layers)
                        .filter(|other| keep == Keep::Everything && *other == layer || keep != Keep::Everything);
                    let rank = ranks
                        .filter_map(|layer| layout.by_module[layer][module])
                        .map(|slot| layout.slots[slot].padded)
                        .max();
                    *xa = rank.map(|rank| zeros("x·A", n * rank)).transpose()?;
                }
            }
            Ok::<_, DeviceError>(Saved {
                q: zeros("queries", n * q_dim)?,
                q_raw: raw("queries before norm", n * q_dim)?,
                k: zeros("keys", n * kv_dim)?,
                k_raw: raw("keys before norm", n * kv_dim)?,
                v: zeros("values", n * kv_dim)?,
                o: zeros("attention output", n * q_dim)?,
                lse: zeros("attention log-sum-exp", n * config.num_attention_heads)?,
                mid: zeros("residual after attention", n * h)?,
                gate: zeros("gate", n * f)?,
                up: zeros("up", n * f)?,
                xa,
            })
        };
        let widest = h.max(f).max(q_dim);
        let dropped = |label: &str| dropout.then(|| zeros(label, n * widest)).transpose();
        let backward = || {
            Ok::<_, DeviceError>(BackwardScratch {
                d: zeros("gradient of the residual", n * h)?,
                d_act: zeros("gradient of the activation", n * f)?,
                d_up: zeros("gradient of up", n * f)?,
                d_o: zeros("gradient of attention", n * q_dim)?,
                dq: zeros("gradient of queries", n * q_dim)?,
                dq_raw: raw("gradient of raw queries", n * q_dim)?,
                dk: zeros("gradient of keys", n * kv_dim)?,
                dk_raw: raw("gradient of raw keys", n * kv_dim)?,
                dv: zeros("gradient of values", n * kv_dim)?,
                stats: zeros("attention statistics", n * config.num_attention_heads * 2)?,
                dxa: zeros("gradient of x·A", n * layout.map_or(0, |layout| layout.max_rank))?,
                d_dropped: dropped("gradient of a dropped-out input")?,
            })
        };
        let (inputs, sets) = match keep {
            Keep::Nothing => (2, 1),
            Keep::Inputs => (layers + 1, 1),
            Keep::Everything => (layers + 1, layers),
        };
        Ok(Self {
            inputs: (0..inputs).map(|_| zeros("residual", n * h)).collect::<Result<_, _>>()?,
            saved: (0..sets).map(saved).collect::<Result<_, _>>()?,
            scratch: Scratch {
                norm: zeros("norm", n * h)?,
                act: zeros("activation", n * f)?,
                branch: zeros("branch", n * h)?,
                backward: (keep != Keep::Nothing).then(backward).transpose()?,
                dropped: dropped("dropped-out input")?,
            },
            cos_sin: device.upload_f32("rope table", &crate::ops::rope::table(&config.inv_freq(), positions))?.view(),
        })
    }

    /// Input of a block, `[N, H]` for the planned N.
    pub fn input(&self, layer: usize) -> &View {
        &self.inputs[layer % self.inputs.len()]
    }

    /// The set that a block saves to.
    pub fn saved(&self, layer: usize) -> &Saved {
        &self.saved[layer % self.saved.len()]
    }
}
