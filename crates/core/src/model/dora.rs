//! The norms that DoRA (arXiv 2402.09353) divides rows of adapted weights by.
//!
//! They change with the factors alone, so that they are made anew once a step and not in every
//! pass, from the weight's own norms, which never change, and a product of the frozen weight with
//! A's few rows: no adapted weight is ever made.

use bft_formats::{LINEAR_MODULES, Tensor, dequantize_row};
use rayon::prelude::*;

use super::ModelError;
use super::lora::{Layout, Slot};
use super::weights::Weights;
use crate::device::{Device, Elem, Matrix, Recording, View, Weight};
use crate::ops::dora::{self, Lengths, Parts};
use crate::ops::{embedding, linear};

/// Values of a weight that are decoded at once, to find its norms.
const DECODED: usize = 1 << 20;

/// ‖W‖ of each row of a matrix, `[out]`.
///
/// # Errors
/// Where its file can no longer be read.
pub fn row_norms(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let mut norms = Vec::with_capacity(rows);
    let at_once = (DECODED / cols.max(1)).max(1);
    for first in (0..rows).step_by(at_once) {
        let bytes = tensor.read_rows(first..(first + at_once).min(rows))?;
        let norm = |values: &mut Vec<f32>, row: &[u8]| {
            dequantize_row(tensor.dtype, row, values);
            values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
        };
        let rows = bytes.par_chunks_exact(tensor.dtype.row_bytes(cols));
        norms.par_extend(rows.map_init(|| vec![0.0; cols], norm));
    }
    Ok(norms)
}

/// The norms of every adapted weight's rows, by slot.
#[derive(Debug)]
pub(crate) struct Norms {
    /// `[out]` ‖W‖²
    weight_squares: Vec<View>,
    /// `[out]` 1/‖W + s·B·A‖
    inverse: Vec<View>,
    /// `[r, max out]` A·Wᵀ
    aw: View,
    /// `[r, r]` A·Aᵀ
    aa: View,
}

/// Every adapted map: its place among the slots, the slot and the frozen weight.
fn adapted<'a>(layout: &'a Layout, weights: &'a Weights) -> impl Iterator<Item = (usize, &'a Slot, &'a Weight)> {
    layout.by_map.iter().zip(&weights.blocks).flat_map(move |(slots, block)| {
        let maps = (0..LINEAR_MODULES.len()).zip(slots);
        maps.filter_map(move |(map, slot)| slot.map(|at| (at, &layout.slots[at], block.linear(map).weight())))
    })
}

impl Norms {
    /// `None` where the adapter has no magnitudes.
    pub fn load(device: &Device, layout: &Layout, weights: &Weights) -> Result<Option<Self>, ModelError> {
        if layout.slots.iter().all(|slot| slot.magnitude.is_none()) {
            return Ok(None);
        }
        let of_rows = |label: &str| {
            let of_slot = |slot: &Slot| Ok(device.alloc(label, Elem::F32, slot.out_features)?.view());
            layout.slots.iter().map(of_slot).collect::<Result<Vec<_>, ModelError>>()
        };
        let widest = layout.slots.iter().map(|slot| slot.out_features).max().unwrap_or(0);
        let room = |label: &str, cols: usize| device.alloc(label, Elem::F32, layout.max_rank * cols);
        let norms = Self {
            weight_squares: of_rows("squared norms of a weight")?,
            inverse: of_rows("norms of an adapted weight")?,
            aw: room("A·W", widest)?.view(),
            aa: room("A·A", layout.max_rank)?.view(),
        };
        norms.measure_weights(device, layout, weights)?;
        Ok(Some(norms))
    }

    /// Fills in the norms of the weights themselves, from rows decoded a few at a time.
    fn measure_weights(&self, device: &Device, layout: &Layout, weights: &Weights) -> Result<(), ModelError> {
        let at_once = |weight: &Weight| {
            let rows = (DECODED / weight.cols().max(1)).next_multiple_of(View::ALIGN);
            rows.min(weight.rows())
        };
        let largest = adapted(layout, weights).map(|(_, _, weight)| at_once(weight) * weight.cols()).max().unwrap_or(0);
        let decoded = device.alloc("rows of a weight", Elem::F32, largest)?.view();
        let most = adapted(layout, weights).map(|(_, _, weight)| weight.rows()).max().unwrap_or(0);
        let numbers = device.alloc("numbers of rows", Elem::U32, most)?.view();
        device.write_u32(&numbers, &(0..numbers.len() as u32).collect::<Vec<_>>())?;
        for (at, _, weight) in adapted(layout, weights) {
            let (mut rec, rows) = (Recording::new(), at_once(weight));
            for first in (0..weight.rows()).step_by(rows) {
                let range = first..(first + rows).min(weight.rows());
                let decoded = decoded.first(range.len() * weight.cols());
                let max_rows = embedding::rows_per_binding(device, weight);
                embedding::forward(&mut rec, &numbers.slice(range.clone()), weight, &decoded, max_rows);
                dora::squares(&mut rec, &decoded, &self.weight_squares[at].slice(range), weight.cols());
            }
            device.run(&rec)?;
        }
        Ok(())
    }

    /// Records the norms under the factors as they are.
    pub fn record(&self, rec: &mut Recording, layout: &Layout, parameters: &View, weights: &Weights) {
        for (at, slot, weight) in adapted(layout, weights) {
            let (a, b) = (slot.a(parameters), slot.b(parameters));
            let aw = self.aw.first(slot.padded * slot.out_features);
            let aa = self.aa.first(slot.padded * slot.padded);
            linear::forward(rec, &a, &Matrix::frozen(weight), &aw, 1.0, false);
            linear::forward(rec, &a, &slot.a_matrix(parameters), &aa, 1.0, false);
            let parts = Parts { b: &b, aw: &aw, aa: &aa, weight_squares: &self.weight_squares[at] };
            dora::inverse_norm(rec, parts, &self.inverse[at], slot.scaling);
        }
    }

    /// 1/n of the rows that a slot adapts, beside their m in `parameters`.
    pub fn lengths(&self, at: usize, slot: &Slot, parameters: &View) -> Option<Lengths> {
        let magnitude = parameters.slice(slot.magnitude.clone()?);
        Some(Lengths { magnitude, inverse: self.inverse[at].clone() })
    }
}
