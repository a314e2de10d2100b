//! A frozen matrix in its file's format.

use std::ops::Range;

use bft_formats::weights::UNIT;
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

    /// Some columns of one row; both ends on borders of units.
    #[inline(always)]
    pub(super) fn units(&self, row: usize, cols: Range<usize>) -> Units<'a> {
        let (len, bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        let (start, end) = (row * self.cols + cols.start, row * self.cols + cols.end);
        debug_assert!(start.is_multiple_of(self.dtype.unit_len()) && end.is_multiple_of(self.dtype.unit_len()));
        let blocks = &self.data[start / len * bytes..end.div_ceil(len) * bytes];
        Units { dtype: self.dtype, blocks, first: start % len / UNIT, len: cols.len() }
    }
}

/// Neighbouring elements of a row, whole units of their format.
#[derive(Clone, Copy)]
pub(super) struct Units<'a> {
    pub(super) dtype: DType,
    /// The blocks that hold them.
    pub(super) blocks: &'a [u8],
    /// The first one's unit of the first block.
    pub(super) first: usize,
    /// Elements.
    pub(super) len: usize,
}
