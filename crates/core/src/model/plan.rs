//! What buffers are planned for.

use std::ops::Range;

use bft_formats::ModelConfig;

use super::lora::Layout;
use crate::device::{Device, DeviceError, Elem, View};

/// What the passes of a run keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: inference.
    Nothing,
    /// Each block's input alone; the rest is made again in the backward pass (activation
    /// checkpointing).
    Inputs,
    /// All of [`super::workspace::Saved`] of each block.
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
