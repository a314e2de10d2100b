//! The feed-forward branch of a block: x `[N, H]` → down(f(gate)·up), where gate and up are
//! projections of norm(x).

use super::ModelError;
use super::adapted::{self, Linear};
use super::block::{Norms, Pass};
use super::parts::Parts;
use super::plan::Plan;
use crate::device::{DeviceError, Recording, View};
use crate::ops::swiglu;
use bft_formats::ModelConfig;

#[derive(Debug)]
pub(crate) struct Weights {
    norms: Norms,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Weights {
    pub fn take(parts: &Parts, config: &ModelConfig, layer: usize) -> Result<Self, ModelError> {
        Ok(Self {
            norms: Norms::take(parts, layer, config.layers[layer].mlp_norms)?,
            gate: Linear::take(parts, layer, 4)?,
            up: Linear::take(parts, layer, 5)?,
            down: Linear::take(parts, layer, 6)?,
        })
    }

    /// gate, up or down.
    pub fn linear(&self, map: usize) -> &Linear {
        [&self.gate, &self.up, &self.down][map]
    }
}

/// What the backward needs of the forward. The norm and the gated activation are made again.
#[derive(Debug)]
pub(crate) struct Saved {
    /// `[N, F]` each
    gate: View,
    up: View,
    /// `[N, H]` output of down, where it is normalised.
    out: Option<View>,
    /// Of gate, up and down.
    xa: [Option<adapted::Saved>; 3],
}

impl Saved {
    pub fn new(plan: &Plan<'_>, layer: usize) -> Result<Self, DeviceError> {
        let f = plan.config.intermediate_size;
        let xa = |module| adapted::Saved::plan(plan, layer, module);
        let out = Norms::plan_out(plan, layer, |spec| spec.mlp_norms)?;
        Ok(Self { gate: plan.rows("gate", f)?, up: plan.rows("up", f)?, out, xa: [xa(4)?, xa(5)?, xa(6)?] })
    }
}

/// Buffers that every block writes anew.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `[N, F]` gated activation; backward, then the gradient of gate.
    act: View,
    backward: Option<Backward>,
}

#[derive(Debug)]
struct Backward {
    /// `[N, F]` each
    d_act: View,
    d_up: View,
}

impl Scratch {
    pub fn new(plan: &Plan<'_>) -> Result<Self, DeviceError> {
        let f = plan.config.intermediate_size;
        let backward = || {
            Ok::<_, DeviceError>(Backward {
                d_act: plan.rows("gradient of the activation", f)?,
                d_up: plan.rows("gradient of up", f)?,
            })
        };
        Ok(Self { act: plan.rows("activation", f)?, backward: plan.keep.backward().then(backward).transpose()? })
    }
}

impl Pass<'_> {
    /// Writes the branch's output `[N, H]` to `branch`.
    pub(super) fn mlp(&self, rec: &mut Recording, layer: usize, x: &View, branch: &View) {
        let (w, Saved { gate, up, out, xa }) = (&self.weights.blocks[layer].mlp, &self.workspace.saved(layer).mlp);
        let (gate, up, out) = (self.rows(gate), self.rows(up), out.as_ref().map(|out| self.rows(out)));
        let (norm, act) = (self.enter(rec, &w.norms, x), self.rows(&self.workspace.scratch.mlp.act));
        self.linear(rec, &w.gate, &xa[0], &norm, &gate);
        self.linear(rec, &w.up, &xa[1], &norm, &up);
        swiglu::forward(rec, self.config().layers[layer].gate, &gate, &up, &act);
        let out = w.norms.out(out.as_ref(), branch);
        self.linear(rec, &w.down, &xa[2], &act, out);
        self.leave(rec, &w.norms, out, branch);
    }

    /// Adds to `d` `[N, H]`, the gradient of the branch's output, that of its input x.
    pub(super) fn mlp_backward(&self, rec: &mut Recording, layer: usize, x: &View, d: &View) {
        let scratch = &self.workspace.scratch;
        let Some(s) = &scratch.mlp.backward else { return };
        let (w, Saved { gate, up, out, xa }) = (&self.weights.blocks[layer].mlp, &self.workspace.saved(layer).mlp);
        let (gate, up, out) = (self.rows(gate), self.rows(up), out.as_ref().map(|out| self.rows(out)));
        let kind = self.config().layers[layer].gate;
        let (act, d_act, d_up) = (self.rows(&scratch.mlp.act), self.rows(&s.d_act), self.rows(&s.d_up));
        // branch = norm(down(f(gate)·up))
        swiglu::forward(rec, kind, &gate, &up, &act);
        let d_out = self.leave_backward(rec, &w.norms, out.as_ref(), d);
        self.linear_backward(rec, &w.down, &xa[2], &act, &d_out, Some((&d_act, false)));
        let d_gate = act;
        swiglu::backward(rec, kind, &gate, &up, &d_act, &d_gate, &d_up);
        // gate, up = projections of norm(x)
        let (norm, (d_norm, add)) = (self.enter(rec, &w.norms, x), self.entry_gradient(&w.norms, d));
        self.linear_backward(rec, &w.gate, &xa[0], &norm, &d_gate, Some((&d_norm, add)));
        self.linear_backward(rec, &w.up, &xa[1], &norm, &d_up, Some((&d_norm, true)));
        self.enter_backward(rec, &w.norms, x, &d_norm, d);
    }
}
