//! A frozen linear map and its LoRA pair: y = m·(x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ) + bias, with m the
//! multiplier of a branch on its last map, and 1 on all others.
//!
//! With DoRA, row i of W + s·B·A is brought from the length n[i] that it has to m[i]. As PEFT has
//! it, dropout leaves the map itself alone: with d = dropout(x) and v = d·Wᵀ + s·(d·Aᵀ)·Bᵀ, y is
//! m·(x·Wᵀ − d·Wᵀ + (m[i]/n[i])·v) + bias, and (m[i]/n[i])·v where nothing is dropped.
//!
//! With PiSSA the frozen map is W − s·B₀·A₀, where B₀ and A₀ are what the pair began as: a second,
//! frozen pair holds −B₀ and A₀, for W itself is never changed. As a part of the frozen map it takes
//! x as it is, without dropout.

use bft_formats::{LINEAR_MODULES, ModelConfig};

use super::ModelError;
use super::block::Pass;
use super::parts::Parts;
use super::plan::Plan;
use crate::device::{DeviceError, Matrix, Recording, View, Weight};
use crate::ops::dora::{magnitude_gradient, scale_rows};
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

    pub fn weight(&self) -> &Weight {
        &self.weight
    }
}

/// What the backward needs of an adapted map's forward.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    /// `[N, r]` x·Aᵀ
    xa: View,
    /// `[N, out]` with DoRA, where gradients are taken: y before its rows are scaled.
    unscaled: Option<View>,
}

impl Saved {
    /// `None` where no layer that saves here adapts the map.
    pub fn plan(plan: &Plan<'_>, layer: usize, map: usize) -> Result<Option<Self>, DeviceError> {
        let Some(layout) = plan.layout else { return Ok(None) };
        // A set that serves all blocks is as wide as the widest of them.
        let slots = || plan.sharing(layer).filter_map(|layer| layout.by_map[layer][map]).map(|at| &layout.slots[at]);
        let Some(rank) = slots().map(|slot| slot.padded).max() else { return Ok(None) };
        let scaled = slots().filter(|slot| plan.keep.backward() && slot.magnitude.is_some());
        let out = scaled.map(|slot| slot.out_features).max();
        let unscaled = out.map(|out| plan.rows("output before its rows are scaled", out)).transpose()?;
        Ok(Some(Self { xa: plan.rows("x·A", rank)?, unscaled }))
    }
}

/// Buffers that every adapted map writes anew.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `[N, max in]` input after dropout, where there is dropout.
    dropped: Option<View>,
    /// `[N, max out]` with DoRA: y before its rows are scaled, where it is not saved; backward, the
    /// gradient of that.
    unscaled: Option<View>,
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
        let slots = plan.layout.iter().flat_map(|layout| &layout.slots);
        let out = slots.filter(|slot| slot.magnitude.is_some()).map(|slot| slot.out_features).max();
        Ok(Self {
            dropped: dropped("dropped-out input")?,
            unscaled: out.map(|out| plan.rows("output whose rows are scaled", out)).transpose()?,
            backward: plan.keep.backward().then(backward).transpose()?,
        })
    }
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

    /// What is dropped and where the gradient behind that goes, where anything is.
    fn d_dropped(&self, dx: &View) -> Option<(f32, View)> {
        let buffer = self.workspace.scratch.adapted.backward.as_ref()?.d_dropped.as_ref()?;
        self.dropout.filter(|dropout| dropout.p > 0.0).map(|dropout| (dropout.p, buffer.first(dx.len())))
    }

    /// Writes y `[N, out]` from x `[N, in]`, and what the backward needs to its place in the saved
    /// set.
    pub(super) fn linear(&self, rec: &mut Recording, map: &Linear, saved: &Option<Saved>, x: &View, y: &View) {
        let adapted = self.lora.and_then(|lora| Some((lora, lora.slot(map.layer, map.map)?, saved.as_ref()?)));
        let Some((lora, slot, saved)) = adapted else { return self.frozen(rec, map, x, y) };
        let xa = saved.xa.first(self.tokens() * slot.padded);
        let pair = |rec: &mut Recording, flat: &View, xa: &View, x: &View, y: &View| {
            linear::forward(rec, x, &slot.a_matrix(flat), xa, 1.0, false);
            linear::forward(rec, xa, &slot.b_matrix(flat), y, map.scale * slot.scaling, true);
        };
        let factors = |rec: &mut Recording, x: &View, y: &View| pair(rec, &lora.parameters, &xa, x, y);
        let scratch = &self.workspace.scratch.adapted;
        let (Some(lengths), Some(unscaled)) =
            (lora.lengths(map.layer, map.map), saved.unscaled.as_ref().or(scratch.unscaled.as_ref()))
        else {
            self.frozen(rec, map, x, y);
            if let (Some(frozen), Some(scratch)) = (&lora.frozen, &scratch.backward) {
                // No gradient needs x·A₀ᵀ later, so that it takes the room of one that is not yet
                // there.
                pair(rec, frozen, &scratch.dxa.first(xa.len()), x, y);
            }
            let x = self.dropped(rec, map, x);
            return factors(rec, &x, y);
        };
        let v = unscaled.first(y.len());
        let dropping = self.dropout.is_some_and(|dropout| dropout.p > 0.0);
        if dropping {
            linear::forward(rec, x, &Matrix::frozen(&map.weight), y, map.scale, false);
        }
        let x = self.dropped(rec, map, x);
        linear::forward(rec, &x, &Matrix::frozen(&map.weight), &v, map.scale, false);
        if dropping {
            scale_rows(rec, &lengths, &v, y, (0.0, -1.0), true);
        }
        factors(rec, &x, &v);
        scale_rows(rec, &lengths, &v, y, (1.0, 0.0), dropping);
        if let Some(bias) = &map.bias {
            add::add_bias(rec, bias, y);
        }
    }

    /// y = m·x·Wᵀ + bias
    fn frozen(&self, rec: &mut Recording, map: &Linear, x: &View, y: &View) {
        linear::forward(rec, x, &Matrix::frozen(&map.weight), y, map.scale, false);
        if let Some(bias) = &map.bias {
            add::add_bias(rec, bias, y);
        }
    }

    /// From dy `[N, out]`: adds the gradients of what is trained, and writes (or, with `true`, adds
    /// to) dx `[N, in]` where it is wanted.
    pub(super) fn linear_backward(
        &self,
        rec: &mut Recording,
        map: &Linear,
        saved: &Option<Saved>,
        x: &View,
        dy: &View,
        dx: Option<(&View, bool)>,
    ) {
        let weight = Matrix::frozen(&map.weight);
        let adapted = self.lora.and_then(|lora| Some((lora, lora.slot(map.layer, map.map)?, saved.as_ref()?)));
        let (Some((lora, slot, saved)), Some(gradients), Some(scratch)) =
            (adapted, self.gradients, &self.workspace.scratch.adapted.backward)
        else {
            // y = x·Wᵀ: dx = dy·W
            if let Some((dx, accumulate)) = dx {
                linear::backward(rec, dy, &weight, dx, map.scale, accumulate);
            }
            return;
        };
        let scaled = lora.lengths(map.layer, map.map).zip(saved.unscaled.as_ref());
        let scaled = scaled.zip(self.workspace.scratch.adapted.unscaled.as_ref());
        let dropping = dx.and_then(|(dx, _)| self.d_dropped(dx));
        // y = (m/n)·v: dv = (m/n)·dy, dm = Σ dy·v / n
        let dv = match (&scaled, &slot.magnitude) {
            (Some(((lengths, v), dv)), Some(magnitude)) => {
                let (v, dv, dm) = (v.first(dy.len()), dv.first(dy.len()), gradients.slice(magnitude.clone()));
                magnitude_gradient(rec, dy, &v, &lengths.inverse, &dm, true);
                scale_rows(rec, lengths, dy, &dv, (1.0, 0.0), false);
                dv
            }
            _ => dy.clone(),
        };
        if let Some((dx, accumulate)) = dx {
            // Where something is dropped, y = x·Wᵀ + ((m/n)·v − d·Wᵀ), of which the second part's
            // gradient follows below.
            let through = if dropping.is_some() { dy } else { &dv };
            linear::backward(rec, through, &weight, dx, map.scale, accumulate);
        }
        let scaling = map.scale * slot.scaling;
        let xa = saved.xa.first(self.tokens() * slot.padded);
        let dxa = scratch.dxa.first(self.tokens() * slot.padded);
        if let (Some(frozen), Some((dx, _))) = (&lora.frozen, dx) {
            linear::backward(rec, &dv, &slot.b_matrix(frozen), &dxa, scaling, false);
            linear::backward(rec, &dxa, &slot.a_matrix(frozen), dx, 1.0, true);
        }
        // v += s·xa·Bᵀ: dB += s·dvᵀ·xa, dxa = s·dv·B
        linear::backward(rec, &dv, &slot.b_matrix(&lora.parameters), &dxa, scaling, false);
        linear::gradient(rec, &dv, &xa, &slot.b(gradients), slot.out_features, slot.padded, scaling, true);
        // xa = dropout(x)·Aᵀ: dA += dxaᵀ·dropout(x), dx += dropout'(dxa·A)
        let dropped = self.dropped(rec, map, x);
        linear::gradient(rec, &dxa, &dropped, &slot.a(gradients), slot.padded, slot.in_features, 1.0, true);
        let Some((dx, _)) = dx else { return };
        let a = slot.a_matrix(&lora.parameters);
        let Some((p, d_dropped)) = dropping else { return linear::backward(rec, &dxa, &a, dx, 1.0, true) };
        linear::backward(rec, &dxa, &a, &d_dropped, 1.0, false);
        if let Some(((lengths, _), _)) = &scaled {
            // d·Wᵀ is in y m/n times, less once.
            scale_rows(rec, lengths, dy, &dv, (1.0, -1.0), false);
            linear::backward(rec, &dv, &weight, &d_dropped, map.scale, true);
        }
        dropout::accumulate(rec, &d_dropped, dx, p, self.key(map));
    }
}
