//! LoRA factors on a device (arXiv 2106.09685): y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with s = α/r.
//!
//! All factors lie in one flat array, so that the norm, the clipping and the optimizer are a kernel
//! each; DoRA's magnitudes, one a row, lie behind the factors of their map. Ranks are padded with
//! zeros to a multiple of four, the width of a shader's loads: a zero row of A and column of B stay
//! zero, for their gradients are products with each other.
//!
//! A pair may adapt several maps, where the model's files and PEFT have them as one module: A is
//! then the same for all of them, and B's rows are theirs one after another.

use std::ops::Range;

use bft_formats::{Adapter, LINEAR_MODULES, LoraPair, ModelConfig};

use super::ModelError;
use super::dora::Norms;
use super::weights::Weights;
use crate::device::{Device, DeviceError, Elem, Matrix, Recording, View};
use crate::ops::dora::Lengths;

/// Where the factors that adapt one map lie in the flat array.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The module of the pair that these are of.
    pub module: String,
    /// The map's place in [`LINEAR_MODULES`].
    pub map: usize,
    /// Rank as configured.
    pub rank: usize,
    /// Rank as stored: a multiple of four.
    pub padded: usize,
    pub in_features: usize,
    /// Of the map.
    pub out_features: usize,
    pub scaling: f32,
    /// `[padded, in]`, shared by the maps of a module.
    pub a: Range<usize>,
    /// `[out, padded]`, the map's own rows.
    pub b: Range<usize>,
    /// `[out]` DoRA's magnitudes of the map's rows.
    pub magnitude: Option<Range<usize>>,
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
    /// In the order of the adapter's pairs, those of a pair next to each other.
    pub slots: Vec<Slot>,
    /// `[layers][7]`: index into `slots`.
    pub by_map: Vec<[Option<usize>; 7]>,
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
        let mut slots = Vec::new();
        for pair in &adapter.pairs {
            let padded = pair.rank.next_multiple_of(4);
            let a = take(padded * pair.in_features);
            let short = pair.module.rsplit('.').next().unwrap_or_default();
            let maps = config.linear_modules().iter().find(|module| module.name == short);
            for map in maps.map_or(0..0, |module| module.maps.clone()) {
                let out_features = config.linear_shape(LINEAR_MODULES[map]).unwrap_or_default()[0];
                slots.push(Slot {
                    module: pair.module.clone(),
                    map,
                    rank: pair.rank,
                    padded,
                    in_features: pair.in_features,
                    out_features,
                    scaling: pair.scaling,
                    a: a.clone(),
                    b: take(out_features * padded),
                    magnitude: pair.magnitude.as_ref().map(|_| take(out_features)),
                });
            }
        }
        let place = |layer: usize, map: usize| {
            let module = config.linear_modules().iter().find(|module| module.maps.contains(&map))?;
            let name = ModelConfig::linear_name(layer, module.name);
            slots.iter().position(|slot: &Slot| slot.map == map && slot.module == name)
        };
        Self {
            by_map: (0..config.layers.len()).map(|layer| std::array::from_fn(|map| place(layer, map))).collect(),
            max_rank: slots.iter().map(|slot| slot.padded).max().unwrap_or(0),
            len: end,
            slots,
        }
    }

    /// The slots of each pair, in the adapter's order.
    fn by_pair(&self) -> impl Iterator<Item = &[Slot]> {
        self.slots.chunk_by(|one, next| one.module == next.module)
    }

    /// The flat array of an adapter's factors.
    pub fn flatten(&self, adapter: &Adapter) -> Vec<f32> {
        let mut flat = vec![0.0; self.len];
        for (slots, pair) in self.by_pair().zip(&adapter.pairs) {
            flat[slots[0].a.clone()][..pair.a.len()].copy_from_slice(&pair.a);
            let mut rows = pair.b.chunks_exact(pair.rank);
            let mut magnitudes = pair.magnitude.iter().flatten();
            for slot in slots {
                flat[slot.magnitude.clone().unwrap_or_default()]
                    .iter_mut()
                    .zip(&mut magnitudes)
                    .for_each(|(m, of)| *m = *of);
                for (row, values) in flat[slot.b.clone()].chunks_exact_mut(slot.padded).zip(&mut rows) {
                    row[..slot.rank].copy_from_slice(values);
                }
            }
        }
        flat
    }

    /// The factors of a flat array.
    pub fn pairs(&self, flat: &[f32]) -> Vec<LoraPair> {
        let rows = |slot: &Slot| {
            let rows = flat[slot.b.clone()].chunks_exact(slot.padded);
            rows.flat_map(|row| &row[..slot.rank]).copied().collect::<Vec<_>>()
        };
        let pair = |slots: &[Slot]| LoraPair {
            module: slots[0].module.clone(),
            rank: slots[0].rank,
            scaling: slots[0].scaling,
            in_features: slots[0].in_features,
            out_features: slots.iter().map(|slot| slot.out_features).sum(),
            a: flat[slots[0].a.clone()][..slots[0].rank * slots[0].in_features].to_vec(),
            b: slots.iter().flat_map(rows).collect(),
            magnitude: slots
                .iter()
                .map(|slot| Some(&flat[slot.magnitude.clone()?]))
                .collect::<Option<Vec<_>>>()
                .map(|rows| rows.concat()),
        };
        self.by_pair().map(pair).collect()
    }

    /// The tensor that holds element `at` of the flat array, by PEFT's short name.
    pub fn tensor_at(&self, at: usize) -> Option<String> {
        self.slots.iter().find_map(|slot| {
            let factor = if slot.a.contains(&at) {
                "lora_A"
            } else if slot.b.contains(&at) {
                "lora_B"
            } else if slot.magnitude.as_ref().is_some_and(|magnitude| magnitude.contains(&at)) {
                "lora_magnitude_vector"
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
    /// `[len]` factors beside the parameters, laid out as they are, that nothing trains: with PiSSA
    /// what the parameters began as, with its sign turned.
    pub frozen: Option<View>,
    /// Of DoRA.
    norms: Option<Norms>,
}

impl Lora {
    pub fn load(device: &Device, adapter: &Adapter, weights: &Weights) -> Result<Self, ModelError> {
        let config = &weights.config;
        for pair in &adapter.pairs {
            if let Some(misfit) = pair.misfit() {
                return Err(ModelError::State(misfit));
            }
            let short = pair.module.rsplit('.').next().unwrap_or_default();
            let linear = config.linear_modules().iter().find(|module| module.name == short);
            let shape = linear.and_then(|module| config.linear_shape(module.name));
            if shape != Some([pair.out_features, pair.in_features]) {
                let found = [pair.out_features, pair.in_features];
                return Err(ModelError::State(format!("{} is {found:?}, the model's is {shape:?}", pair.module)));
            }
        }
        let layout = Layout::new(adapter, config);
        let parameters = device.upload_f32("adapter", &layout.flatten(adapter))?.view();
        let lora = Self { norms: Norms::load(device, &layout, weights)?, layout, parameters, frozen: None };
        let mut rec = Recording::new();
        lora.record_norms(&mut rec, weights);
        device.run(&rec)?;
        Ok(lora)
    }

    /// As [`Self::load`], of an adapter of which only the first half of every rank is trained.
    pub fn load_halves(device: &Device, adapter: &Adapter, weights: &Weights) -> Result<Self, ModelError> {
        let halves = adapter.pairs.iter().map(|pair| {
            let refused = || ModelError::State(format!("{} has no two halves: rank {}", pair.module, pair.rank));
            pair.halves().map(|[trained, frozen]| (trained, frozen)).ok_or_else(refused)
        });
        let (trained, frozen) = halves.collect::<Result<(Vec<_>, Vec<_>), _>>()?;
        let [trained, frozen] = [trained, frozen].map(|pairs| Adapter { config: adapter.config.clone(), pairs });
        let mut lora = Self::load(device, &trained, weights)?;
        lora.frozen = Some(device.upload_f32("frozen half of the adapter", &lora.layout.flatten(&frozen))?.view());
        Ok(lora)
    }

    /// The pairs as they are now, the frozen half beside the trained one.
    pub async fn read(&self, device: &Device) -> Result<Vec<LoraPair>, ModelError> {
        let trained = self.layout.pairs(&device.read_f32(&self.parameters).await?);
        let Some(frozen) = &self.frozen else { return Ok(trained) };
        let frozen = self.layout.pairs(&device.read_f32(frozen).await?);
        let both = trained.into_iter().zip(frozen);
        Ok(both.filter_map(|(trained, frozen)| LoraPair::side_by_side(vec![trained, frozen])).collect())
    }

    /// Records what follows from the parameters: the norms of DoRA. Passes take them as they are.
    pub fn record_norms(&self, rec: &mut Recording, weights: &Weights) {
        if let Some(norms) = &self.norms {
            norms.record(rec, &self.layout, &self.parameters, weights);
        }
    }

    /// The slot that adapts a map of a block.
    pub fn slot(&self, layer: usize, map: usize) -> Option<&Slot> {
        self.layout.by_map[layer][map].map(|index| &self.layout.slots[index])
    }

    /// DoRA's lengths of the rows of a map.
    pub fn lengths(&self, layer: usize, map: usize) -> Option<Lengths> {
        let at = self.layout.by_map[layer][map]?;
        self.norms.as_ref()?.lengths(at, &self.layout.slots[at], &self.parameters)
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
