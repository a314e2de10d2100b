//! The blocks of a decoder, forward and, in reverse, backward; one walk for training, scoring and generating.
//!
//! x `[N, H]` → x + attention(x) → + mlp of that.

use bft_formats::ModelConfig;

use super::ModelError;
use super::adapted::Dropout;
use super::attention::{self, Keys};
use super::batch::BatchViews;
use super::lora::Lora;
use super::mlp;
use super::weights::{Parts, Weights};
use super::workspace::Workspace;
use crate::device::{Recording, View};
use crate::ops::{add, embedding, rms_norm};

/// One block's frozen parameters.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    pub attention: attention::Weights,
    pub mlp: mlp::Weights,
}

impl BlockWeights {
    pub fn take(parts: &Parts, config: &ModelConfig, layer: usize) -> Result<Self, ModelError> {
        Ok(Self { attention: attention::Weights::take(parts, config, layer)?, mlp: mlp::Weights::take(parts, layer)? })
    }
}

/// What a pass over the blocks reads and writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub weights: &'a Weights,
    pub lora: Option<&'a Lora>,
    /// Flat, like the adapter's parameters; adds up over micro-batches.
    pub gradients: Option<&'a View>,
    pub workspace: &'a Workspace,
    pub ids: &'a BatchViews,
    pub keys: Keys<'a>,
    pub dropout: Option<Dropout>,
}

impl<'a> Pass<'a> {
    pub(super) fn config(&self) -> &'a ModelConfig {
        &self.weights.config
    }

    pub(super) fn tokens(&self) -> usize {
        self.ids.tokens.len()
    }

    /// The first N rows of a buffer that is planned for `[capacity, cols]`.
    pub(super) fn rows(&self, planned: &View) -> View {
        planned.first(planned.len() / self.workspace.capacity * self.tokens())
    }

    pub(super) fn norm(&self, rec: &mut Recording, x: &View, weight: &View, y: &View) {
        rms_norm::forward(rec, x, weight, y, self.config().hidden_size, self.config().rms_norm_eps);
    }

    /// Adds the gradient of [`Self::norm`] to dx.
    pub(super) fn norm_backward(&self, rec: &mut Recording, x: &View, weight: &View, dy: &View, dx: &View) {
        rms_norm::backward(rec, x, weight, dy, dx, self.config().hidden_size, self.config().rms_norm_eps, true);
    }

    /// Records embedding and every block; the last one's output `[N, H]`.
    pub fn forward(&self, rec: &mut Recording) -> View {
        let (weights, layers) = (self.weights, self.weights.blocks.len());
        let x = self.rows(self.workspace.input(0));
        embedding::forward(rec, &self.ids.tokens, &weights.embedding, &x, weights.embedding_rows);
        (0..layers).for_each(|layer| self.block(rec, layer));
        self.rows(self.workspace.input(layers))
    }

    /// Records the gradient of every block; with `again`, each block's forward before it. `scratch.backward.d` holds
    /// the gradient of the last one's output.
    pub fn backward(&self, rec: &mut Recording, again: bool) {
        for layer in (0..self.weights.blocks.len()).rev() {
            if again {
                self.block(rec, layer);
            }
            self.block_backward(rec, layer);
        }
    }

    /// Reads a block's input, writes its saved set and the next block's input.
    fn block(&self, rec: &mut Recording, layer: usize) {
        let (x, out) = (self.rows(self.workspace.input(layer)), self.rows(self.workspace.input(layer + 1)));
        let (mid, branch) = (self.rows(&self.workspace.saved(layer).mid), self.rows(&self.workspace.scratch.branch));
        self.attention(rec, layer, &x, &branch);
        add::residual(rec, &x, &branch, &mid);
        self.mlp(rec, layer, &mid, &branch);
        add::residual(rec, &mid, &branch, &out);
    }

    /// `d` holds the gradient of the block's output and receives that of its input.
    fn block_backward(&self, rec: &mut Recording, layer: usize) {
        let Some(scratch) = &self.workspace.scratch.backward else { return };
        let (x, mid) = (self.rows(self.workspace.input(layer)), self.rows(&self.workspace.saved(layer).mid));
        let d = self.rows(&scratch.d);
        self.mlp_backward(rec, layer, &mid, &d);
        self.attention_backward(rec, layer, &x, &d);
    }
}
