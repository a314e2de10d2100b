//! Frozen weights as a GPU wants them: the same bytes, with quants and scales apart so that every load is aligned.
//!
//! | format | quants | scales |
//! |---|---|---|
//! | F32, F16, BF16 | the row-major values | none |
//! | Q8_0 | 32 bytes a block | f16 d a block, two blocks a word |
//! | Q4_0 | 16 bytes a block | f16 d a block, two blocks a word |
//! | Q4_1 | 16 bytes a block | f16 d and f16 m a block, one block a word |

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
    let blocks = rows * cols / dtype.block_len();
    match dtype {
        DType::F32 => Sizes { quants: rows * cols, scales: 0 },
        DType::F16 | DType::BF16 => Sizes { quants: (rows * cols).div_ceil(2), scales: 0 },
        DType::Q8_0 => Sizes { quants: blocks * 8, scales: blocks.div_ceil(2) },
        DType::Q4_0 => Sizes { quants: blocks * 4, scales: blocks.div_ceil(2) },
        DType::Q4_1 => Sizes { quants: blocks * 4, scales: blocks },
    }
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
    let rows = data.len() / dtype.row_bytes(cols).max(1);
    let sizes = sizes(dtype, rows, cols);
    let (mut quants, mut scales) = (vec![0u32; sizes.quants], vec![0u32; sizes.scales]);
    let (quant_bytes, scale_bytes): (&mut [u8], &mut [u8]) =
        (bytemuck::cast_slice_mut(&mut quants), bytemuck::cast_slice_mut(&mut scales));
    let header = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => 0,
        DType::Q8_0 | DType::Q4_0 => 2,
        DType::Q4_1 => 4,
    };
    if header == 0 {
        quant_bytes[..data.len()].copy_from_slice(data);
    } else {
        let body = dtype.block_bytes() - header;
        for (i, block) in data.chunks_exact(dtype.block_bytes()).enumerate() {
            scale_bytes[i * header..(i + 1) * header].copy_from_slice(&block[..header]);
            quant_bytes[i * body..(i + 1) * body].copy_from_slice(&block[header..]);
        }
    }
    Regrouped { quants, scales }
}
