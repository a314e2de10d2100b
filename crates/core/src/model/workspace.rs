//! Every activation, planned before the first step.

use std::ops::Range;

use bft_formats::ModelConfig;

use super::lora::Layout;
use super::{adapted, attention, mlp};
use crate::device::{Device, DeviceError, Elem, View};
use crate::ops::rope;

/// What the passes of a run keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: inference.
    Nothing,
    /// Each block's input alone; the rest is made again in the backward pass (activation
    /// checkpointing).
    Inputs,
    /// All of [`Saved`] of each block.
    Everything,
}

impl Keep {
    /// Whether gradients are taken.
    pub fn backward(self) -> bool {
        self != Self::Nothing
    }
}

/// What a workspace is planned for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub device: &'a Device,
    pub config: &'a ModelConfig,
    pub layout: Option<&'a Layout>,
    /// Largest N.
    pub capacity: usize,
    /// The longest text, in tokens.
    pub positions: usize,
    pub keep: Keep,
    /// Whether there is LoRA dropout.
    pub dropout: bool,
}

impl Plan<'_> {
    /// Room for `[N, cols]`.
    pub fn rows(&self, label: &str, cols: usize) -> Result<View, DeviceError> {
        Ok(self.device.alloc(label, Elem::F32, self.capacity * cols)?.view())
    }

    /// The layers that save to the same set as this one.
    pub fn sharing(&self, layer: usize) -> Range<usize> {
        if self.keep == Keep::Everything { layer..layer + 1 } else { 0..self.config.layers.len() }
    }

    /// Q·D
    pub fn q_dim(&self) -> usize {
        self.config.num_attention_heads * self.config.head_dim
    }

    /// K·D
    pub fn kv_dim(&self) -> usize {
        self.config.num_key_value_heads * self.config.head_dim
    }
}

/// Where texts rotate otherwise once they are long, as LongRoPE has it: the rows of the ropes'
/// tables for long texts lie behind those for short ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongTexts {
    /// Tokens beyond which a text is long.
    beyond: usize,
    /// The first row for long texts.
    first_row: usize,
}

impl LongTexts {
    /// `None` where texts of up to `positions` tokens all rotate alike.
    pub fn of(config: &ModelConfig, positions: usize) -> Option<Self> {
        let beyond = config.ropes.iter().find_map(|rope| rope.beyond()).map(|(tokens, _)| tokens);
        beyond.filter(|beyond| positions > *beyond).map(|beyond| Self { beyond, first_row: positions })
    }

    /// The row of position 0 of a text of so many tokens.
    pub fn row(&self, tokens: usize) -> u32 {
        if self.long(tokens) { self.first_row as u32 } else { 0 }
    }

    /// Whether a text of so many tokens is long.
    pub fn long(&self, tokens: usize) -> bool {
        tokens > self.beyond
    }
}

/// What a block's backward pass needs of its forward pass.
#[derive(Debug)]
pub(crate) struct Saved {
    pub attention: attention::Saved,
    /// `[N, H]` residual stream between attention and MLP.
    pub mid: View,
    pub mlp: mlp::Saved,
}

/// Buffers that every block writes anew.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `[N, H]` normalised input of a branch.
    pub norm: View,
    /// `[N, H]` a branch's output before it joins the residual stream; backward, the gradient of a
    /// norm.
    pub branch: View,
    pub mlp: mlp::Scratch,
    pub adapted: adapted::Scratch,
    /// Only where gradients are taken.
    pub backward: Option<Backward>,
}

#[derive(Debug)]
pub(crate) struct Backward {
    /// `[N, H]` gradient of the residual stream.
    pub d: View,
    pub attention: attention::Backward,
}

/// Buffers of the decoder's passes.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The planned N.
    pub capacity: usize,
    /// `[N, H]` input of each block, and the last one's output; two that take turns where nothing
    /// is kept.
    inputs: Vec<View>,
    /// One for each block, or one for all.
    saved: Vec<Saved>,
    pub scratch: Scratch,
    /// `[positions, R]` each, of [`rope::table`]; with [`LongTexts`], twice as many rows.
    pub ropes: Vec<View>,
}

impl Workspace {
    pub fn new(plan: &Plan<'_>) -> Result<Self, DeviceError> {
        let (h, layers) = (plan.config.hidden_size, plan.config.layers.len());
        let (inputs, sets) = match plan.keep {
            Keep::Nothing => (2, 1),
            Keep::Inputs => (layers + 1, 1),
            Keep::Everything => (layers + 1, layers),
        };
        let saved = |layer: usize| {
            Ok::<_, DeviceError>(Saved {
                attention: attention::Saved::new(plan, layer)?,
                mid: plan.rows("residual after attention", h)?,
                mlp: mlp::Saved::new(plan, layer)?,
            })
        };
        let backward = || {
            Ok::<_, DeviceError>(Backward {
                d: plan.rows("gradient of the residual", h)?,
                attention: attention::Backward::new(plan)?,
            })
        };
        let long = LongTexts::of(plan.config, plan.positions);
        let table = |rope: &bft_formats::Rope| {
            let table = |inv_freq: &[f32]| rope::table(inv_freq, rope.attention_factor(), plan.positions);
            let mut rows = table(&rope.inv_freq());
            if long.is_some() {
                rows.extend(table(&rope.beyond().map_or_else(|| rope.inv_freq(), |(_, inv_freq)| inv_freq)));
            }
            let table = rows;
            Ok::<_, DeviceError>(plan.device.upload_f32("rope table", &table)?.view())
        };
        Ok(Self {
            capacity: plan.capacity.max(1),
            inputs: (0..inputs).map(|_| plan.rows("residual", h)).collect::<Result<_, _>>()?,
            saved: (0..sets).map(saved).collect::<Result<_, _>>()?,
            scratch: Scratch {
                norm: plan.rows("norm", h)?,
                branch: plan.rows("branch", h)?,
                mlp: mlp::Scratch::new(plan)?,
                adapted: adapted::Scratch::new(plan)?,
                backward: plan.keep.backward().then(backward).transpose()?,
            },
            ropes: plan.config.ropes.iter().map(table).collect::<Result<_, _>>()?,
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
