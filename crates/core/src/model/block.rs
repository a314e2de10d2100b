//! The blocks of a decoder, forward and, in reverse, backward; one walk for training, scoring and
//! generating.
//!
//! x `[N, H]` → x + attention(x) → + mlp of that.

use bft_formats::{BranchNorms, LayerSpec, ModelConfig};

use super::ModelError;
use super::adapted::Dropout;
use super::attention::Keys;
use super::batch::BatchViews;
use super::lora::Lora;
use super::parts::Parts;
use super::plan::Plan;
use super::weights::Weights;
use super::workspace::Workspace;
use crate::device::{DeviceError, Recording, View};
use crate::ops::{add, embedding, rms_norm, scale};

/// The norms around a branch, `[H]` each.
#[derive(Debug)]
pub(crate) struct Norms {
    before: Option<View>,
    after: Option<View>,
}

impl Norms {
    pub fn take(parts: &Parts, layer: usize, names: BranchNorms) -> Result<Self, ModelError> {
        let take = |name: Option<&str>| {
            name.map(|name| parts.vector(&format!("model.layers.{layer}.{name}.weight"))).transpose()
        };
        Ok(Self { before: take(names.before)?, after: take(names.after)? })
    }

    /// `[N, H]` room for a branch's output before its norm, where any layer that saves here has
    /// one.
    pub fn plan_out(
        plan: &Plan<'_>,
        layer: usize,
        norms: impl Fn(&LayerSpec) -> BranchNorms,
    ) -> Result<Option<View>, DeviceError> {
        let normed = plan.sharing(layer).any(|layer| norms(&plan.config.layers[layer]).after.is_some());
        normed.then(|| plan.rows("branch before its norm", plan.config.hidden_size)).transpose()
    }

    /// Where the branch's last map writes: `saved` where a norm follows, else `branch`.
    pub fn out<'v>(&self, saved: Option<&'v View>, branch: &'v View) -> &'v View {
        saved.filter(|_| self.after.is_some()).unwrap_or(branch)
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

    /// What a branch reads: x normalised, or x itself.
    pub(super) fn enter(&self, rec: &mut Recording, norms: &Norms, x: &View) -> View {
        let Some(weight) = &norms.before else { return x.clone() };
        let y = self.rows(&self.workspace.scratch.norm);
        rms_norm::forward(rec, x, weight, &y, self.config().hidden_size, self.config().rms_norm_eps);
        y
    }

    /// Where the gradient of what a branch reads is gathered, and whether it is added to what is
    /// there: in scratch, or in d, the gradient of x, itself.
    pub(super) fn entry_gradient(&self, norms: &Norms, d: &View) -> (View, bool) {
        if norms.before.is_some() { (self.rows(&self.workspace.scratch.branch), false) } else { (d.clone(), true) }
    }

    /// Adds to dx the gradient of x from dy, where [`Self::entry_gradient`] has not.
    pub(super) fn enter_backward(&self, rec: &mut Recording, norms: &Norms, x: &View, dy: &View, dx: &View) {
        if let Some(weight) = &norms.before {
            rms_norm::backward(rec, x, weight, dy, dx, self.config().hidden_size, self.config().rms_norm_eps, true);
        }
    }

    /// Normalises `out` into `branch`; where the branch has no norm behind it, `out` is `branch`.
    pub(super) fn leave(&self, rec: &mut Recording, norms: &Norms, out: &View, branch: &View) {
        if let Some(weight) = &norms.after {
            rms_norm::forward(rec, out, weight, branch, self.config().hidden_size, self.config().rms_norm_eps);
        }
    }

    /// The gradient of `out` from d, that of the branch.
    pub(super) fn leave_backward(&self, rec: &mut Recording, norms: &Norms, out: Option<&View>, d: &View) -> View {
        let (Some(weight), Some(out)) = (&norms.after, out) else { return d.clone() };
        let (d_out, config) = (self.rows(&self.workspace.scratch.branch), self.config());
        rms_norm::backward(rec, out, weight, d, &d_out, config.hidden_size, config.rms_norm_eps, false);
        d_out
    }

    /// Records embedding and every block; the last one's output `[N, H]`.
    pub fn forward(&self, rec: &mut Recording) -> View {
        let (weights, layers) = (self.weights, self.weights.blocks.len());
        let x = self.rows(self.workspace.input(0));
        embedding::forward(rec, &self.ids.tokens, &weights.embedding, &x, weights.embedding_rows);
        scale::scale(rec, &x, weights.config.embedding_scale);
        (0..layers).for_each(|layer| self.block(rec, layer));
        self.rows(self.workspace.input(layers))
    }

    /// Records the gradient of every block; with `again`, each block's forward before it.
    /// `scratch.backward.d` holds the gradient of the last one's output.
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
