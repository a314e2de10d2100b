//! A frozen matrix in its file's format.

use bft_formats::{DType, Tensor};

/// A frozen matrix `[rows, cols]` in its file's format: `rows` outputs, `cols` inputs, row-major.
#[derive(Clone, Copy, Debug)]
pub struct WeightRef<'a> {
    /// How the elements are stored.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs: a multiple of the format's block length.
    pub cols: usize,
    /// `rows · dtype.row_bytes(cols)` bytes, little-endian, of any alignment.
    pub data: &'a [u8],
}

impl<'a> WeightRef<'a> {
    /// A tensor whose bytes were read.
    pub fn new(tensor: &Tensor, data: &'a [u8]) -> Self {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        WeightRef { dtype: tensor.dtype, rows, cols, data }
    }

    /// The rows `start..start + count`, such as a chunk of the vocabulary.
    pub fn rows(self, start: usize, count: usize) -> WeightRef<'a> {
        let stride = self.dtype.row_bytes(self.cols);
        let data = &self.data[start * stride..(start + count) * stride];
        WeightRef { rows: count, data, ..self }
    }

    /// A dense matrix.
    pub(super) fn dense(values: &'a [f32], rows: usize, cols: usize) -> WeightRef<'a> {
        WeightRef { dtype: DType::F32, rows, cols, data: bytemuck::cast_slice(values) }
    }

    pub(super) fn check(&self) {
        let Some(row_bytes) = self.dtype.checked_row_bytes(self.cols) else {
            panic!("{} columns are not whole blocks of {}", self.cols, self.dtype);
        };
        assert_eq!(self.data.len(), self.rows * row_bytes, "bytes of {} [{}, {}]", self.dtype, self.rows, self.cols);
    }
}
