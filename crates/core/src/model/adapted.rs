//! A frozen linear map and its LoRA pair: y = m·(x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ) + bias, with m the
//! multiplier of a branch on its last map, and 1 on all others.

use bft_formats::{LINEAR_MODULES, ModelConfig};

use super::ModelError;
use super::block::Pass;
use super::weights::Parts;
use super::workspace::Plan;
use crate::device::{DeviceError, Matrix, Recording, View, Weight};
use crate::ops::{add, dropout, linear};

/// LoRA dropout of one forward pass; its backward pass draws the same numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    pub p: f32,
    pub seed: u64,
    /// Counts the run's micro-batches, so that no two draw alike.
    pub pass: u32,
}

/// A frozen linear map of one block.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`
    weight: Weight,
    /// `[out]`
    bias: Option<View>,
    layer: usize,
    /// Place in [`LINEAR_MODULES`].
    map: usize,
    /// The place of the first map of its module, whose draws of dropout are those of all of them:
    /// they adapt one input together.
    first: usize,
    /// What x·Wᵀ and the LoRA pair's part are multiplied by.
    scale: f32,
}

impl Linear {
    pub fn take(parts: &Parts, layer: usize, map: usize) -> Result<Self, ModelError> {
        let name = ModelConfig::linear_name(layer, LINEAR_MODULES[map]);
        let weight = parts.matrix(&format!("{name}.weight"))?;
        // The last map of a branch takes the branch's multiplier.
        let last = ["o_proj", "down_proj"].contains(&LINEAR_MODULES[map]);
        let scale = if last { parts.config.layers[layer].residual_scale } else { 1.0 };
        let module = parts.config.linear_modules().iter().find(|module| module.maps.contains(&map));
        let first = module.map_or(map, |module| module.maps.start);
        Ok(Self { weight, bias: parts.optional(&format!("{name}.bias")), layer, map, first, scale })
    }
}

/// Buffers that every adapted map writes anew.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `[N, max in]` input after dropout, where there is dropout.
    dropped: Option<View>,
    backward: Option<Backward>,
}

#[derive(Debug)]
struct Backward {
    /// `[N, r]` gradient of x·Aᵀ.
    dxa: View,
    /// `[N, max in]` gradient of the input after dropout, where there is dropout.
    d_dropped: Option<View>,
}

impl Scratch {
    pub fn new(plan: &Plan<'_>) -> Result<Self, DeviceError> {
        let config = plan.config;
        let widest = config.hidden_size.max(config.intermediate_size).max(plan.q_dim());
        let dropped = |label: &str| plan.dropout.then(|| plan.rows(label, widest)).transpose();
        let backward = || {
            Ok::<_, DeviceError>(Backward {
                dxa: plan.rows("gradient of x·A", plan.layout.map_or(0, |layout| layout.max_rank))?,
                d_dropped: dropped("gradient of a dropped-out input")?,
            })
        };
        Ok(Self { dropped: dropped("dropped-out input")?, backward: plan.keep.backward().then(backward).transpose()? })
    }
}

/// `[N, r]` room for x·Aᵀ of a map, where it is adapted in any layer that saves here.
pub(crate) fn plan_xa(plan: &Plan<'_>, layer: usize, map: usize) -> Result<Option<View>, DeviceError> {
    let Some(layout) = plan.layout else { return Ok(None) };
    // A set that serves all blocks is as wide as the widest of them.
    let slots = plan.sharing(layer).filter_map(|layer| layout.by_map[layer][map]);
    slots.map(|slot| layout.slots[slot].padded).max().map(|rank| plan.rows("x·A", rank)).transpose()
}

impl Pass<'_> {
    fn key(&self, map: &Linear) -> [u32; 4] {
        let dropout = self.dropout.unwrap_or(Dropout { p: 0.0, seed: 0, pass: 0 });
        let module = (map.layer * LINEAR_MODULES.len() + map.first) as u32;
        [dropout.seed as u32, (dropout.seed >> 32) as u32, module, dropout.pass]
    }

    /// x after LoRA dropout, `[N, in]`: x itself where there is none.
    fn dropped(&self, rec: &mut Recording, map: &Linear, x: &View) -> View {
        match (self.dropout, &self.workspace.scratch.adapted.dropped) {
            (Some(Dropout { p, .. }), Some(buffer)) if p > 0.0 => {
                let dropped = buffer.first(x.len());
                dropout::apply(rec, x, &dropped, p, self.key(map));
                dropped
            }
            _ => x.clone(),
        }
    }

    /// Writes y `[N, out]` from x `[N, in]`, and x·Aᵀ to its place in the saved set.
    pub(super) fn linear(&self, rec: &mut Recording, map: &Linear, xa: &Option<View>, x: &View, y: &View) {
        linear::forward(rec, x, &Matrix::frozen(&map.weight), y, map.scale, false);
        if let Some(bias) = &map.bias {
            add::add_bias(rec, bias, y);
        }
        let Some(lora) = self.lora else { return };
        if let (Some(slot), Some(xa)) = (lora.slot(map.layer, map.map), xa) {
            let xa = xa.first(self.tokens() * slot.padded);
            let x = self.dropped(rec, map, x);
            linear::forward(rec, &x, &slot.a_matrix(&lora.parameters), &xa, 1.0, false);
            linear::forward(rec, &xa, &slot.b_matrix(&lora.parameters), y, map.scale * slot.scaling, true);
        }
    }

    /// From dy `[N, out]`: adds the gradients of A and B, and writes (or, with `true`, adds to) dx
    /// `[N, in]` where it is wanted.
    pub(super) fn linear_backward(
        &self,
        rec: &mut Recording,
        map: &Linear,
        xa: &Option<View>,
        x: &View,
        dy: &View,
        dx: Option<(&View, bool)>,
    ) {
        // y = x·Wᵀ: dx = dy·W
        if let Some((dx, accumulate)) = dx {
            linear::backward(rec, dy, &Matrix::frozen(&map.weight), dx, map.scale, accumulate);
        }
        let (Some(lora), Some(gradients), Some(scratch)) =
            (self.lora, self.gradients, &self.workspace.scratch.adapted.backward)
        else {
            return;
        };
        let (Some(slot), Some(xa)) = (lora.slot(map.layer, map.map), xa) else { return };
        let scaling = map.scale * slot.scaling;
        // y += s·xa·Bᵀ: dB += s·dyᵀ·xa, dxa = s·dy·B
        let xa = xa.first(self.tokens() * slot.padded);
        let dxa = scratch.dxa.first(self.tokens() * slot.padded);
        linear::backward(rec, dy, &slot.b_matrix(&lora.parameters), &dxa, scaling, false);
        linear::gradient(rec, dy, &xa, &slot.b(gradients), slot.out_features, slot.padded, scaling, true);
        // xa = dropout(x)·Aᵀ: dA += dxaᵀ·dropout(x), dx += dropout'(dxa·A)
        let dropped = self.dropped(rec, map, x);
        linear::gradient(rec, &dxa, &dropped, &slot.a(gradients), slot.padded, slot.in_features, 1.0, true);
        let Some((dx, _)) = dx else { return };
        let a = slot.a_matrix(&lora.parameters);
        match (self.dropout, &scratch.d_dropped) {
            (Some(Dropout { p, .. }), Some(buffer)) if p > 0.0 => {
                let d_dropped = buffer.first(dx.len());
                linear::backward(rec, &dxa, &a, &d_dropped, 1.0, false);
                dropout::accumulate(rec, &d_dropped, dx, p, self.key(map));
            }
            _ => linear::backward(rec, &dxa, &a, dx, 1.0, true),
        }
    }
}
