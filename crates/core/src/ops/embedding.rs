//! Rows of a frozen matrix, decoded: token embeddings, and the head's rows of the right tokens.
//!
//! With ids `[N]` and W `[rows, cols]`: y[n] = W[ids[n]], y `[N, cols]`. W is frozen and ids have
//! no gradient, so the backward pass ends here.

use bft_formats::{DType, dequantize_row};
use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, WEIGHT_VARIANTS, groups, weight_defines};
use crate::device::{Arg, Call, Choice, Choices, CpuMatrix, Device, Matrix, Recording, View, Weight, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        tokens: u32,
        cols: u32,
        first: u32,
        rows: u32,
    }
}

kernels! { KERNELS of Params:
    FORWARD = "embedding"::forward(ids: Ids, w: Matrix, y: ReadWrite) => forward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "embedding", kernels: KERNELS, variants: &WEIGHT_VARIANTS, cases };

/// y[n] = W[ids[n]]. `max_rows` (see [`rows_per_binding`]) bounds the rows bound at once.
pub fn forward(rec: &mut Recording, ids: &View, weight: &Weight, y: &View, max_rows: usize) {
    for first in (0..weight.rows()).step_by(max_rows) {
        let rows = max_rows.min(weight.rows() - first);
        let params =
            Params { tokens: ids.len() as u32, cols: weight.cols() as u32, first: first as u32, rows: rows as u32 };
        let matrix = Matrix::rows_of(weight, first, rows);
        let grid = groups(ids.len() * weight.cols() / weight.dtype().spec().layout.chunk);
        let only = Choices::only(Choice::portable(&FORWARD, grid));
        let args = [Arg::from(ids), (&matrix).into(), y.into()];
        rec.choose(only, [0; 3], 0.0, weight_defines(weight.dtype()), &params, args);
    }
}

/// Rows of `weight` that the device binds at once.
#[must_use]
pub fn rows_per_binding(device: &Device, weight: &Weight) -> usize {
    let row = weight.dtype().row_bytes(weight.cols()).max(1) as u64;
    let rows = (device.max_binding_bytes() / row).min(weight.rows() as u64) as usize;
    if rows == weight.rows() { rows } else { (rows / Weight::ROW_ALIGN).max(1) * Weight::ROW_ALIGN }
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let cols = params.cols as usize;
    let [ids, matrix, y] = call.args();
    let (ids, matrix, y) = (ids.ids(), matrix.matrix(), y.write());
    y.par_chunks_exact_mut(cols).zip(ids).for_each(|(y, id)| {
        let Some(row) = id.checked_sub(params.first).filter(|row| *row < params.rows) else {
            return;
        };
        let row = row as usize;
        match matrix {
            CpuMatrix::Dense { data, .. } => y.copy_from_slice(&data[row * cols..(row + 1) * cols]),
            CpuMatrix::Frozen { dtype, data, .. } => {
                let bytes = dtype.row_bytes(cols);
                let mut values = vec![0.0f32; cols];
                dequantize_row(dtype, &data[row * bytes..(row + 1) * bytes], &mut values);
                for (y, value) in y.iter_mut().zip(values) {
                    *y = T::from_f32(value);
                }
            }
        }
    });
}

fn cases() -> Vec<Case> {
    let sizes: [(usize, usize, usize); 3] = [(1, 3, 32), (7, 300, 96), (65, 600, 576)];
    let cases = DType::ALL.iter().flat_map(|&dtype| {
        sizes.map(|(tokens, rows, cols)| {
            let cols = cols.next_multiple_of(dtype.block_len());
            // Bound 256 rows at a time, as on a device with small bindings.
            Case::new(format!("{tokens} of {rows} x {cols} in {dtype}"), move |rec, t| {
                forward(rec, t.view("ids"), t.weight("w"), t.view("y"), 256);
            })
            .input("ids", &[tokens], Fill::Ids(rows as u32))
            .input("w", &[rows, cols], Fill::Weight(dtype))
            .output("y", &[tokens, cols])
        })
    });
    cases.collect()
}
