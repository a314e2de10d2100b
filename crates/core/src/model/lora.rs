//! LoRA factors on a device (arXiv 2106.09685): y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with s = α/r.
//!
//! All factors lie in one flat array, so that the norm, the clipping and the optimizer are a kernel
//! each. Ranks are padded with zeros to a multiple of four, the width of a shader's loads: a zero
//! row of A and column of B stay zero, for their gradients are products with each other.

use std::ops::Range;

use bft_formats::{Adapter, LINEAR_MODULES, LoraPair, ModelConfig};

use super::ModelError;
use crate::device::{Device, DeviceError, Elem, Matrix, View};

/// Where one module's factors lie in the flat array.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub module: String,
    /// Rank as configured.
    pub rank: usize,
    /// Rank as stored: a multiple of four.
    pub padded: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub scaling: f32,
    /// `[padded, in]`
    pub a: Range<usize>,
    /// `[out, padded]`
    pub b: Range<usize>,
}

impl Slot {
    /// A of a flat array laid out like the parameters.
    pub fn a(&self, flat: &View) -> View {
        flat.slice(self.a.clone())
    }

    /// B of a flat array laid out like the parameters.
    pub fn b(&self, flat: &View) -> View {
        flat.slice(self.b.clone())
    }

    pub fn a_matrix(&self, flat: &View) -> Matrix {
        Matrix::dense(&self.a(flat), self.padded, self.in_features)
    }

    pub fn b_matrix(&self, flat: &View) -> Matrix {
        Matrix::dense(&self.b(flat), self.out_features, self.padded)
    }
}

/// The layout of an adapter's factors and, per block and module, which slot adapts it.
#[derive(Debug)]
pub(crate) struct Layout {
    pub slots: Vec<Slot>,
    /// `[layers][7]`: index into `slots`.
    pub by_module: Vec<[Option<usize>; 7]>,
    /// Length of the flat array.
    pub len: usize,
    /// Largest padded rank.
    pub max_rank: usize,
}

impl Layout {
    pub fn new(adapter: &Adapter, config: &ModelConfig) -> Self {
        let mut end = 0;
        let mut take = |len: usize| {
            let start = end;
            end = (start + len).next_multiple_of(View::ALIGN);
            start..start + len
        };
        let slots: Vec<Slot> = adapter
            .pairs
            .iter()
            .map(|pair| {
                let padded = pair.rank.next_multiple_of(4);
                Slot {
                    module: pair.module.clone(),
                    rank: pair.rank,
                    padded,
                    in_features: pair.in_features,
                    out_features: pair.out_features,
                    scaling: pair.scaling,
                    a: take(padded * pair.in_features),
                    b: take(pair.out_features * padded),
                }
            })
            .collect();
        let place = |layer: usize, index: usize| {
            let name = ModelConfig::linear_name(layer, LINEAR_MODULES[index]);
            slots.iter().position(|slot| slot.module == name)
        };
        Self {
            by_module: (0..config.layers.len()).map(|layer| std::array::from_fn(|index| place(layer, index))).collect(),
            max_rank: slots.iter().map(|slot| slot.padded).max().unwrap_or(0),
            len: end,
            slots,
        }
    }

    /// The flat array of an adapter's factors.
    pub fn flatten(&self, adapter: &Adapter) -> Vec<f32> {
        let mut flat = vec![0.0; self.len];
        for (slot, pair) in self.slots.iter().zip(&adapter.pairs) {
            flat[slot.a.clone()][..pair.a.len()].copy_from_slice(&pair.a);
            let rows = flat[slot.b.clone()].chunks_exact_mut(slot.padded);
            for (row, values) in rows.zip(pair.b.chunks_exact(slot.rank)) {
                row[..slot.rank].copy_from_slice(values);
            }
        }
        flat
    }

    /// The factors of a flat array.
    pub fn pairs(&self, flat: &[f32]) -> Vec<LoraPair> {
        let pair = |slot: &Slot| LoraPair {
            module: slot.module.clone(),
            rank: slot.rank,
            scaling: slot.scaling,
            in_features: slot.in_features,
            out_features: slot.out_features,
            a: flat[slot.a.clone()][..slot.rank * slot.in_features].to_vec(),
            b: flat[slot.b.clone()].chunks_exact(slot.padded).flat_map(|row| &row[..slot.rank]).copied().collect(),
        };
        self.slots.iter().map(pair).collect()
    }

    /// The tensor that holds element `at` of the flat array, by PEFT's short name.
    pub fn tensor_at(&self, at: usize) -> Option<String> {
        self.slots.iter().find_map(|slot| {
            let factor = if slot.a.contains(&at) {
                "lora_A"
            } else if slot.b.contains(&at) {
                "lora_B"
            } else {
                return None;
            };
            Some(format!("{}.{factor}", slot.module))
        })
    }
}

/// An adapter's factors on a device.
#[derive(Debug)]
pub(crate) struct Lora {
    pub layout: Layout,
    /// `[len]`
    pub parameters: View,
}

impl Lora {
    pub fn load(device: &Device, adapter: &Adapter, config: &ModelConfig) -> Result<Self, ModelError> {
        for pair in &adapter.pairs {
            let sizes = (pair.a.len(), pair.b.len());
            if sizes != (pair.rank * pair.in_features, pair.out_features * pair.rank) {
                return Err(ModelError::State(format!("{} has factors of {sizes:?} elements", pair.module)));
            }
        }
        let layout = Layout::new(adapter, config);
        let parameters = device.upload_f32("adapter", &layout.flatten(adapter))?.view();
        Ok(Self { layout, parameters })
    }

    /// The slot that adapts a module of a block.
    pub fn slot(&self, layer: usize, module: usize) -> Option<&Slot> {
        self.layout.by_module[layer][module].map(|index| &self.layout.slots[index])
    }
}

/// What training keeps beside the factors.
#[derive(Debug)]
pub(crate) struct Moments {
    pub gradients: View,
    pub first: View,
    pub second: View,
}

impl Moments {
    pub fn new(device: &Device, len: usize) -> Result<Self, DeviceError> {
        let zeros = |label: &str| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, len)?.view());
        Ok(Self {
            gradients: zeros("adapter gradients")?,
            first: zeros("first moments")?,
            second: zeros("second moments")?,
        })
    }
}
