//! Frozen weights as a GPU wants them: the same bytes, with quants and scales apart so that every
//! load is aligned. Each format says how ([`bft_formats::weights::Layout`]).

use bft_formats::DType;

/// Rows that a range of rows must start at a multiple of, so that both buffers can be bound at it.
pub const ROW_ALIGN: usize = super::Weight::ROW_ALIGN;

/// Lengths of both buffers, in 4-byte words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Values or quants.
    pub quants: usize,
    /// Scales; 0 for formats without.
    pub scales: usize,
}

/// Lengths for `rows` rows of `cols` elements.
#[must_use]
pub fn sizes(dtype: DType, rows: usize, cols: usize) -> Sizes {
    let (quants, scales) = dtype.gpu_words(rows, cols);
    Sizes { quants, scales }
}

/// Both buffers of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regrouped {
    /// Values or quants.
    pub quants: Vec<u32>,
    /// Scales; empty for formats without.
    pub scales: Vec<u32>,
}

/// Regroups whole rows.
#[must_use]
pub fn regroup(dtype: DType, cols: usize, data: &[u8]) -> Regrouped {
    let sizes = sizes(dtype, data.len() / dtype.row_bytes(cols).max(1), cols);
    let (mut quants, mut scales) = (vec![0u32; sizes.quants], vec![0u32; sizes.scales]);
    dtype.regroup(data, bytemuck::cast_slice_mut(&mut quants), bytemuck::cast_slice_mut(&mut scales));
    Regrouped { quants, scales }
}
