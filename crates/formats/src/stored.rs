//! Numbers that become another format as they are read: bases that are quantised as they load, and
//! FP8, which no kernel takes.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use crate::{Bytes, DType, FormatError, Result, Tensor, dequantize_row, quantize_row};

/// What lies in a file.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// Numbers of a plain format.
    Plain(DType),
    /// FP8 numbers of four exponent and three mantissa bits, and what they are multiplied by.
    E4M3(Option<Arc<Scales>>),
}

/// Scales of a matrix, one for each block of it.
#[derive(Debug)]
pub(crate) struct Scales {
    /// Rows and columns of a block; those at the matrix's edges may be cut.
    pub block: [usize; 2],
    /// Blocks side by side.
    pub across: usize,
    /// Row-major.
    pub values: Vec<f32>,
}

/// Numbers that are turned at once: enough that threads are worth their start.
pub(crate) const PIECE: usize = 1 << 20;

impl Stored {
    fn row_bytes(&self, cols: usize) -> usize {
        match self {
            Self::Plain(dtype) => dtype.row_bytes(cols),
            Self::E4M3(_) => cols,
        }
    }

    /// The numbers of row number `row`.
    fn decode(&self, row: usize, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::Plain(dtype) => dequantize_row(*dtype, bytes, out),
            Self::E4M3(scales) => {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = E4M3[usize::from(*byte)];
                }
                if let Some(Scales { block: [high, wide], across, values }) = scales.as_deref() {
                    let values = &values[row / high * across..];
                    for (out, scale) in out.chunks_mut(*wide).zip(values) {
                        out.iter_mut().for_each(|out| *out *= scale);
                    }
                }
            }
        }
    }

    /// The bytes of some rows of `tensor` in its format, a piece at a time, so that the file's never
    /// are in memory whole.
    pub fn convert(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Bytes> {
        let (from, to) = (self.row_bytes(tensor.cols()), tensor.dtype.row_bytes(tensor.cols()));
        let mut out = Vec::new();
        out.try_reserve_exact(rows.len() * to).map_err(|_| {
            FormatError::malformed(&tensor.name, format!("there is no memory for its {} bytes", rows.len() * to))
        })?;
        out.resize(rows.len() * to, 0);
        // Whole heads, where their rows have to be put in order.
        let head = tensor.interleaved.map_or(1, |order| order.head_dim);
        let piece = (PIECE / tensor.cols().max(1)).max(1).next_multiple_of(head);
        for start in rows.clone().step_by(piece) {
            let end = rows.end.min(start + piece);
            let bytes = tensor.stored_rows(from, start..end)?;
            let out = &mut out[(start - rows.start) * to..(end - rows.start) * to];
            on_every_core(end - start, out, to, |first, out| {
                let bytes = &bytes[first * from..first * from + out.len() / to * from];
                self.convert_rows(tensor, start + first, bytes, out)
            })?;
            bytes.release();
        }
        Ok(out.into())
    }

    /// Turns the rows from number `first` on.
    fn convert_rows(&self, tensor: &Tensor, first: usize, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let cols = tensor.cols();
        let mut values = vec![0.0; cols];
        let out = out.chunks_exact_mut(tensor.dtype.row_bytes(cols).max(1));
        for (index, (bytes, out)) in bytes.chunks_exact(self.row_bytes(cols).max(1)).zip(out).enumerate() {
            self.decode(first + index, bytes, &mut values);
            // Scales of blocks are halves, the largest of which this is.
            if let Some(found) = values.iter().find(|value| value.is_nan() || value.abs() > 65504.0) {
                let row = first + index;
                let problem = format!("row {row} holds {found}, expected numbers of at most 65504 in size");
                return Err(FormatError::malformed(&tensor.name, problem));
            }
            if tensor.dtype == DType::BF16 {
                for (out, value) in out.chunks_exact_mut(2).zip(&values) {
                    out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
                }
            } else {
                quantize_row(tensor.dtype, &values, out);
            }
        }
        Ok(())
    }
}

/// Runs `work(first row, their bytes)` over parts of `out`, which has `rows` of `row` bytes.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn on_every_core(
    rows: usize,
    out: &mut [u8],
    row: usize,
    work: impl Fn(usize, &mut [u8]) -> Result<()> + Sync,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let part = rows.div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let parts = out.chunks_mut((part * row).max(1)).enumerate();
        let work = &work;
        let threads: Vec<_> = parts.map(|(index, out)| scope.spawn(move || work(index * part, out))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// As on a machine with threads, in one go.
#[cfg(target_arch = "wasm32")]
pub(crate) fn on_every_core(
    _: usize,
    out: &mut [u8],
    _: usize,
    work: impl Fn(usize, &mut [u8]) -> Result<()>,
) -> Result<()> {
    work(0, out)
}

/// The number of every byte of FP8 E4M3 as PyTorch's `float8_e4m3fn` has it: no infinities, and NaN
/// where all bits but the sign are set.
static E4M3: [f32; 256] = {
    let mut numbers = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, mantissa) = (byte as u32 >> 3 & 15, byte as u32 & 7);
        let size = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            // An f32 has the same fields, wider, with 127 in the place of 7.
            _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
        };
        numbers[byte] = if byte < 128 { size } else { -size };
        byte += 1;
    }
    numbers
};
