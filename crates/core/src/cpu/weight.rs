//! A frozen matrix in its file's format.

use bft_formats::{DType, Tensor, dequantize_row};

/// A frozen matrix `[rows, cols]` in its file's format: `rows` outputs, `cols` inputs, row-major.
#[derive(Clone, Copy, Debug)]
pub struct WeightRef<'a> {
    /// How the elements are stored.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs: a multiple of the format's block length.
    pub cols: usize,
    /// `rows · dtype.row_bytes(cols)` bytes.
    pub data: &'a [u8],
}

impl<'a> From<&'a Tensor> for WeightRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        WeightRef {
            dtype: tensor.dtype,
            rows: tensor.rows(),
            cols: tensor.cols(),
            data: &tensor.data,
        }
    }
}

impl<'a> WeightRef<'a> {
    /// The rows `start..start + count`, such as a chunk of the vocabulary.
    pub fn rows(self, start: usize, count: usize) -> WeightRef<'a> {
        let stride = self.dtype.row_bytes(self.cols);
        WeightRef {
            rows: count,
            data: &self.data[start * stride..(start + count) * stride],
            ..self
        }
    }

    pub(super) fn check(&self) {
        assert_eq!(
            self.cols % self.dtype.block_len(),
            0,
            "a row of {:?} is whole blocks",
            self.dtype
        );
        assert_eq!(
            self.data.len(),
            self.rows * self.dtype.row_bytes(self.cols),
            "weight bytes"
        );
    }

    /// Elements `col..col + out.len()` of one row; both ends on block borders.
    pub(super) fn dequantize(&self, row: usize, col: usize, out: &mut [f32]) {
        let start = row * self.dtype.row_bytes(self.cols) + self.dtype.row_bytes(col);
        dequantize_row(
            self.dtype,
            &self.data[start..start + self.dtype.row_bytes(out.len())],
            out,
        );
    }
}
