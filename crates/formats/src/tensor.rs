//! A named, shaped, typed range of bytes.

use std::ops::Range;

use crate::{Bytes, DType, FormatError, Result, Source, dequantize_row};

/// One weight tensor in its file's storage format.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Storage format of `data`.
    pub dtype: DType,
    /// Row-major shape: `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// `rows() * dtype.row_bytes(cols())` bytes, little-endian, as they lie in the file.
    pub data: Source,
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
        Ok(Self { name, dtype, shape, data, interleaved: None })
    }

    /// Makes an F32 tensor from values; `values.len()` must be the product of `shape`.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, DType::F32, shape, bytes)
    }

    /// Some rows of a matrix as a matrix of their own. Panics when a row is not there, or where the
    /// file orders rows in llama.cpp's way.
    pub(crate) fn part(&self, name: String, rows: Range<usize>) -> Self {
        assert!(self.interleaved.is_none(), "rows in llama.cpp's order cannot be parted");
        let row = self.dtype.row_bytes(self.cols());
        let bytes = (rows.start * row) as u64..(rows.end * row) as u64;
        let data = self.data.slice(bytes).expect("rows of this tensor");
        Self { name, dtype: self.dtype, shape: vec![rows.len(), self.cols()], data, interleaved: None }
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

    /// Length of the data in bytes.
    pub fn byte_len(&self) -> usize {
        self.rows() * self.dtype.row_bytes(self.cols())
    }

    /// All bytes, rows in Hugging Face order: shared with the file's where they are in memory.
    pub fn bytes(&self) -> Result<Bytes> {
        self.read_rows(0..self.rows())
    }

    /// The bytes of some rows, read from where they are. Panics when a row is not there.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Bytes> {
        let row = self.dtype.row_bytes(self.cols());
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
        let rows = Bytes::from(order.undo(&read(first..end.next_multiple_of(head))?));
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
