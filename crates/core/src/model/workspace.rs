//! Every activation, planned before the first step.

use super::plan::{Keep, LongTexts, Plan};
use super::{adapted, attention, mlp};
use crate::device::{DeviceError, View};
use crate::ops::rope;

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
