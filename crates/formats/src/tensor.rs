//! A named, shaped, typed range of bytes.

use std::ops::Range;

use crate::stored::Stored;
use crate::{Bytes, DType, FormatError, Result, Source, dequantize_row};

/// One weight tensor, in its file's storage format or in one that it is turned into as it is read.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Format of the bytes that are read.
    pub dtype: DType,
    /// Row-major shape: `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// The bytes as they lie in the file, little-endian: `rows() * dtype.row_bytes(cols())` of them,
    /// or what `stored` says.
    pub data: Source,
    /// What lies in the file, where it becomes `dtype` as it is read.
    pub(crate) stored: Option<Stored>,
    /// Set where the file orders rows in llama.cpp's way.
    pub(crate) interleaved: Option<Interleaved>,
}

/// llama.cpp's order of q and k rows, undone where they are read.
///
/// Within each head of D rows, llama.cpp stores the two rotary halves interleaved: its row `2i + s`
/// is Hugging Face's row `s·D/2 + i`. Moving whole rows is exact for quantised ones too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interleaved {
    pub head_dim: usize,
    /// Of a row; of one element of a bias.
    pub row_bytes: usize,
}

impl Interleaved {
    /// Whole heads as llama.cpp has them, of rows in Hugging Face's order.
    pub fn apply(self, heads: &[u8]) -> Vec<u8> {
        let mut rows = Vec::with_capacity(heads.len());
        for head in heads.chunks(self.head_dim * self.row_bytes) {
            for i in 0..self.head_dim {
                let from = (i % 2 * (self.head_dim / 2) + i / 2) * self.row_bytes;
                rows.extend_from_slice(&head[from..from + self.row_bytes]);
            }
        }
        rows
    }

    fn undo(self, heads: &[u8]) -> Vec<u8> {
        let mut rows = Vec::with_capacity(heads.len());
        for head in heads.chunks(self.head_dim * self.row_bytes) {
            for half in 0..2 {
                for i in 0..self.head_dim / 2 {
                    let from = (2 * i + half) * self.row_bytes;
                    rows.extend_from_slice(&head[from..from + self.row_bytes]);
                }
            }
        }
        rows
    }
}

impl Tensor {
    /// Makes a tensor, checking that `data` is exactly as long as shape and format say.
    pub fn new(name: impl Into<String>, dtype: DType, shape: Vec<usize>, data: impl Into<Source>) -> Result<Self> {
        let (name, data) = (name.into(), data.into());
        let expected = byte_len(dtype, &shape).ok_or_else(|| {
            FormatError::malformed(
                &name,
                format!("shape {shape:?} does not fit whole {dtype} blocks of {}", dtype.block_len()),
            )
        })?;
        if data.len() != expected as u64 {
            return Err(FormatError::malformed(
                &name,
                format!("{} bytes for {dtype} {shape:?}, expected {expected}", data.len()),
            ));
        }
        Ok(Self { name, dtype, shape, data, stored: None, interleaved: None })
    }

    /// Makes a tensor of FP8 numbers, which become BF16 as they are read; they have no scales yet.
    pub(crate) fn e4m3(name: &str, shape: Vec<usize>, data: Source) -> Result<Self> {
        let expected = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
        if expected.map(|count| count as u64) != Some(data.len()) {
            let problem = format!("{} bytes for F8_E4M3 {shape:?}, expected one each", data.len());
            return Err(FormatError::malformed(name, problem));
        }
        let (name, stored) = (name.to_string(), Some(Stored::E4M3(None)));
        Ok(Self { name, dtype: DType::BF16, shape, data, stored, interleaved: None })
    }

    /// Makes an F32 tensor from values; `values.len()` must be the product of `shape`.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, DType::F32, shape, bytes)
    }

    /// Has the numbers, of a plain format, become blocks as they are read; `cols()` is whole ones.
    pub(crate) fn become_blocks(&mut self, dtype: DType) {
        self.stored.get_or_insert(Stored::Plain(self.dtype));
        self.dtype = dtype;
    }

    /// Length of the last dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last: 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows() * self.cols()
    }

    /// Length in bytes, of what is read.
    pub fn byte_len(&self) -> usize {
        self.rows() * self.dtype.row_bytes(self.cols())
    }

    /// One of so many equal runs of rows, over the same bytes; `None` where rows do not divide so,
    /// or cannot be cut apart.
    pub(crate) fn rows_of(&self, (piece, of): (usize, usize)) -> Option<Self> {
        if of == 1 {
            return Some(self.clone());
        }
        let (&rows, _) = self.shape.split_first().filter(|(rows, _)| rows.is_multiple_of(of))?;
        let rows = rows / of;
        self.part(piece * rows..(piece + 1) * rows)
    }

    /// Some rows of a matrix, over the same bytes; `None` where these are not there, or do not lie
    /// in their order, alone.
    pub(crate) fn part(&self, rows: Range<usize>) -> Option<Self> {
        // Scales of blocks stand apart from the rows, so that these cannot be cut alone.
        let scaled = matches!(self.stored, Some(Stored::E4M3(Some(_))));
        if scaled || self.interleaved.is_some() || self.shape.len() < 2 || rows.end > self.shape[0] {
            return None;
        }
        let row = self.data.len().checked_div(self.shape[0] as u64)?;
        let data = self.data.slice(rows.start as u64 * row..rows.end as u64 * row)?;
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        Some(Self { shape, data, ..self.clone() })
    }

    /// Whether the bytes that are read are made of the file's, and not the file's own.
    pub fn is_converted(&self) -> bool {
        self.stored.is_some()
    }

    /// All bytes, rows in Hugging Face order: shared with the file's where they are in memory and in
    /// its format.
    pub fn bytes(&self) -> Result<Bytes> {
        self.read_rows(0..self.rows())
    }

    /// The bytes of some rows, read from where they are. Panics when a row is not there.
    ///
    /// # Errors
    /// Where the file can no longer be read, or holds a number that the format cannot.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Bytes> {
        match &self.stored {
            None => self.stored_rows(self.dtype.row_bytes(self.cols()), rows),
            Some(stored) => stored.convert(self, rows),
        }
    }

    /// The bytes of some rows as the file has them, `row` bytes each, in Hugging Face order.
    pub(crate) fn stored_rows(&self, row: usize, rows: Range<usize>) -> Result<Bytes> {
        let (start, end) = (rows.start * row, rows.end * row);
        let read = |range: Range<usize>| {
            let part = self.data.slice(range.start as u64..range.end as u64);
            part.expect("rows of this tensor").bytes(&self.name)
        };
        let Some(order) = self.interleaved else {
            return read(start..end);
        };
        let head = order.head_dim * order.row_bytes;
        let first = start / head * head;
        let heads = read(first..end.next_multiple_of(head))?;
        let rows = Bytes::from(order.undo(&heads));
        heads.release();
        Ok(rows.slice(start - first..end - first).expect("whole heads hold their rows"))
    }

    /// All values as `f32`, row-major.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.elements()];
        dequantize_row(self.dtype, &self.bytes()?, &mut out);
        Ok(out)
    }
}

/// Bytes of a whole tensor, or `None` when the last dimension is not whole blocks or the product
/// overflows.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&cols, rows) = shape.split_last().unwrap_or((&1, &[]));
    rows.iter().try_fold(dtype.checked_row_bytes(cols)?, |bytes, &n| bytes.checked_mul(n))
}
