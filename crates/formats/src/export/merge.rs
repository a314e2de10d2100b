//! What an adapter does to the rows of a base's matrices.

use std::collections::BTreeMap;

use crate::{Adapter, FormatError, LINEAR_MODULES, LoraPair, Model, Result};

/// What adapts a matrix: the rows of a pair from number `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch<'a> {
    pair: &'a LoraPair,
    first: usize,
}

/// The patch of every adapted matrix, by the name of its tensor.
///
/// # Errors
/// Where the adapter holds numbers that are not finite, or does not fit the model.
pub(super) fn patches<'a>(model: &Model, adapter: Option<&'a Adapter>) -> Result<BTreeMap<String, Patch<'a>>> {
    let mut patches = BTreeMap::new();
    let Some(adapter) = adapter else { return Ok(patches) };
    let refuse = |problem: String| Err(FormatError::malformed("adapter", problem));
    if let Some(what) = adapter.not_finite() {
        return refuse(what);
    }
    for pair in &adapter.pairs {
        if let Some(misfit) = pair.misfit() {
            return refuse(misfit);
        }
        let (block, short) = pair.module.rsplit_once('.').unwrap_or_default();
        let module = model.config.linear_modules().iter().find(|module| module.name == short);
        let mut first = 0;
        for map in module.map_or(0..0, |module| module.maps.clone()) {
            let name = format!("{block}.{}.weight", LINEAR_MODULES[map]);
            let Some(tensor) = model.tensors.get(&name).filter(|tensor| tensor.cols() == pair.in_features) else {
                break;
            };
            first += tensor.rows();
            patches.insert(name, Patch { pair, first: first - tensor.rows() });
        }
        if first != pair.out_features || first == 0 {
            let shape = [pair.out_features, pair.in_features];
            return refuse(format!("{} is {shape:?}, which is no module of {}", pair.module, model.name));
        }
    }
    Ok(patches)
}

impl Patch<'_> {
    /// Adapts row number `row` of the matrix: w + s·B·A, and with DoRA brought to its length. `room`
    /// is as long as the row.
    ///
    /// The sum of the factors is made apart, so that the row is rounded once.
    pub fn apply(&self, row: usize, values: &mut [f32], room: &mut [f32]) {
        let LoraPair { rank, scaling, a, b, magnitude, .. } = self.pair;
        let at = self.first + row;
        room.fill(0.0);
        for (b, a) in b[at * rank..][..*rank].iter().zip(a.chunks_exact(values.len())) {
            room.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
        values.iter_mut().zip(&*room).for_each(|(value, sum)| *value += scaling * sum);
        if let Some(magnitude) = magnitude {
            let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            // A row of zeros has no direction to be stretched in, and stays.
            let factor = if norm > 0.0 { (f64::from(magnitude[at]) / norm) as f32 } else { 0.0 };
            values.iter_mut().for_each(|value| *value *= factor);
        }
    }
}
