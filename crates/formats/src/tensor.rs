//! A named, shaped, typed range of bytes.

use crate::{Bytes, DType, FormatError, Result, dequantize_row};

/// One weight tensor in its file's storage format.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Storage format of `data`.
    pub dtype: DType,
    /// Row-major shape: `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// `rows() * dtype.row_bytes(cols())` bytes, little-endian; not necessarily aligned.
    pub data: Bytes,
}

impl Tensor {
    /// Makes a tensor, checking that `data` is exactly as long as shape and format say.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        data: Bytes,
    ) -> Result<Self> {
        let name = name.into();
        let expected = byte_len(dtype, &shape).ok_or_else(|| {
            FormatError::malformed(
                &name,
                format!(
                    "shape {shape:?} does not fit whole {dtype} blocks of {}",
                    dtype.block_len()
                ),
            )
        })?;
        if data.len() != expected {
            return Err(FormatError::malformed(
                &name,
                format!(
                    "{} bytes for {dtype} {shape:?}, expected {expected}",
                    data.len()
                ),
            ));
        }
        Ok(Self {
            name,
            dtype,
            shape,
            data,
        })
    }

    /// Makes an F32 tensor from values; `values.len()` must be the product of `shape`.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(name, DType::F32, shape, Bytes::from(bytes))
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

    /// The bytes of one row. Panics when `row >= self.rows()`.
    pub fn row(&self, row: usize) -> &[u8] {
        let bytes = self.dtype.row_bytes(self.cols());
        &self.data[row * bytes..(row + 1) * bytes]
    }

    /// All values as `f32`, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        dequantize_row(self.dtype, &self.data, &mut out);
        out
    }
}

/// Bytes of a whole tensor, or `None` when the last dimension is not whole blocks or the product overflows.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&cols, rows) = shape.split_last().unwrap_or((&1, &[]));
    rows.iter()
        .try_fold(dtype.checked_row_bytes(cols)?, |bytes, &n| {
            bytes.checked_mul(n)
        })
}
