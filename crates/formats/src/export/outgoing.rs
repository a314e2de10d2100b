//! Tensors on their way out: read, adapted, and turned into the format that they are written in.

use std::io::{self, Write};

use half::{bf16, f16};

use super::merge::Patch;
use crate::stored::{PIECE, on_every_core};
use crate::tensor::Interleaved;
use crate::{DType, FormatError, Result, Tensor, dequantize_row, quantize_row};

/// Tensors of a base, the rows of one behind those of another, and what adapts each.
pub(super) type Parts<'a> = Vec<(Tensor, Option<Patch<'a>>)>;

/// A tensor that is made as it is written: one of the base's, or several, the rows of one behind
/// those of another.
pub(super) struct Outgoing<'a> {
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub parts: Parts<'a>,
    /// What is added to each number.
    pub shift: f32,
    /// Rows of a head, where they are written in llama.cpp's order of q and k.
    pub interleaved: Option<usize>,
}

impl<'a> Outgoing<'a> {
    /// Parts of this format, their numbers and rows as they are.
    pub fn new(name: String, dtype: DType, parts: Parts<'a>) -> Self {
        let mut shape = parts.first().map_or_else(Vec::new, |(tensor, _)| tensor.shape.clone());
        if let [(_, _), _, ..] = &*parts {
            shape[0] = parts.iter().map(|(tensor, _)| tensor.shape[0]).sum();
        }
        Self { name, shape, dtype, parts, shift: 0.0, interleaved: None }
    }

    /// Length in bytes; rows are whole blocks of the format.
    pub fn byte_len(&self) -> u64 {
        let rows: usize = self.parts.iter().map(|(tensor, _)| tensor.rows()).sum();
        let cols = self.shape.last().copied().unwrap_or(1);
        rows as u64 * self.dtype.row_bytes(cols) as u64
    }

    /// Writes the numbers, a piece at a time.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (tensor, patch) in &self.parts {
            let head = self.interleaved.unwrap_or(1);
            let piece = (PIECE / tensor.cols().max(1)).max(1).next_multiple_of(head);
            for start in (0..tensor.rows()).step_by(piece) {
                let rows = start..tensor.rows().min(start + piece);
                let bytes = tensor.read_rows(rows.clone()).map_err(io::Error::other)?;
                let stays = patch.is_none() && self.shift == 0.0 && tensor.dtype == self.dtype;
                let made = match stays {
                    true => None,
                    false => Some(self.convert(tensor, patch.as_ref(), start, &bytes).map_err(io::Error::other)?),
                };
                let rows = made.as_deref().unwrap_or(&bytes);
                match self.interleaved {
                    // A bias is a column of rows with one element each.
                    Some(head_dim) => {
                        let cols = if tensor.shape.len() == 2 { tensor.cols() } else { 1 };
                        let row_bytes = self.dtype.row_bytes(cols);
                        out.write_all(&Interleaved { head_dim, row_bytes }.apply(rows))?;
                    }
                    None => out.write_all(rows)?,
                }
                bytes.release();
            }
        }
        Ok(())
    }

    /// The rows of `tensor` from number `start` on, whose bytes these are, as they are written.
    fn convert(&self, tensor: &Tensor, patch: Option<&Patch>, start: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        let cols = tensor.cols();
        let (from, to) = (tensor.dtype.row_bytes(cols).max(1), self.dtype.row_bytes(cols).max(1));
        let rows = bytes.len() / from;
        let mut out = vec![0; rows * to];
        on_every_core(rows, &mut out, to, |first, out| {
            let (mut values, mut room) = (vec![0.0; cols], vec![0.0; cols]);
            let rows = bytes[first * from..].chunks_exact(from).zip(out.chunks_exact_mut(to));
            for (index, (bytes, out)) in rows.enumerate() {
                let row = start + first + index;
                dequantize_row(tensor.dtype, bytes, &mut values);
                if let Some(patch) = patch {
                    patch.apply(row, &mut values, &mut room);
                }
                if self.shift != 0.0 {
                    values.iter_mut().for_each(|value| *value += self.shift);
                }
                if let Some(found) = encode(self.dtype, &values, out) {
                    return Err(self.no_place(row, found));
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn no_place(&self, row: usize, found: f32) -> FormatError {
        let advice = match self.dtype {
            DType::F32 => "the weights are broken, or the adapter's are",
            _ => "write it in bf16 or f32, which hold larger ones",
        };
        let problem = format!("row {row} holds {found}, which {} cannot; {advice}", self.dtype);
        FormatError::malformed(format!("tensor {}", self.name), problem)
    }
}

/// Turns numbers into a format; gives the first that has no place in it.
fn encode(dtype: DType, values: &[f32], out: &mut [u8]) -> Option<f32> {
    // Scales of blocks are halves, the largest of which this is; what f16 rounds to infinity lies
    // half a step above it.
    let largest = match dtype {
        DType::F32 | DType::BF16 => f32::MAX,
        DType::F16 => 65519.996,
        _ => 65504.0,
    };
    if let Some(found) = values.iter().find(|value| value.is_nan() || value.abs() > largest) {
        return Some(*found);
    }
    match dtype {
        DType::F32 => {
            out.chunks_exact_mut(4).zip(values).for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
        }
        DType::F16 => out
            .chunks_exact_mut(2)
            .zip(values)
            .for_each(|(out, value)| out.copy_from_slice(&f16::from_f32(*value).to_le_bytes())),
        DType::BF16 => out
            .chunks_exact_mut(2)
            .zip(values)
            .for_each(|(out, value)| out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes())),
        dtype => {
            quantize_row(dtype, values, out);
        }
    }
    None
}
