//! The storage formats of weights, and their exact meaning as `f32`.
//!
//! Block formats are llama.cpp's, 32 elements to a block along a row, with an IEEE half scale `d`:
//!
//! | format | bytes | layout | element |
//! |---|---|---|---|
//! | Q8_0 | 34 | d, 32 × i8 | d·q |
//! | Q4_0 | 18 | d, 16 bytes of nibbles | d·(q − 8) |
//! | Q4_1 | 20 | d, half minimum m, 16 bytes of nibbles | d·q + m |
//!
//! In both 4-bit formats byte `j` holds element `j` in its low nibble and `j + 16` in its high one.

use half::{bf16, f16};

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)] // The formats' own names.
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// 8-bit blocks with a scale.
    Q8_0,
    /// 4-bit blocks with a scale, centred on 8.
    Q4_0,
    /// 4-bit blocks with a scale and a minimum.
    Q4_1,
}

impl DType {
    /// Elements in one block: 1 for the plain formats, 32 for the quantised ones.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    /// Bytes in a row of `cols` elements; `None` when `cols` is not whole blocks or overflows.
    pub const fn checked_row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes in a row of `cols` elements, which must be whole blocks (every opened tensor's are).
    pub const fn row_bytes(self, cols: usize) -> usize {
        debug_assert!(cols.is_multiple_of(self.block_len()));
        cols / self.block_len() * self.block_bytes()
    }

    /// True for the formats with a scale for every 32 elements.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// The format's name, as GGUF writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes the `f32` values of `row` (whole blocks of `dtype`) to `out`.
///
/// # Panics
/// When `row.len()` is not `dtype.row_bytes(out.len())`.
pub fn dequantize_row(dtype: DType, row: &[u8], out: &mut [f32]) {
    assert_eq!(Some(row.len()), dtype.checked_row_bytes(out.len()), "a {dtype} row of {} elements", out.len());
    let blocks = row.chunks_exact(dtype.block_bytes());
    match dtype {
        DType::F32 => {
            for (value, b) in out.iter_mut().zip(blocks) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DType::F16 => {
            for (value, b) in out.iter_mut().zip(blocks) {
                *value = half_at(b, 0);
            }
        }
        DType::BF16 => {
            for (value, b) in out.iter_mut().zip(blocks) {
                *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        DType::Q8_0 => {
            for (values, b) in out.chunks_exact_mut(32).zip(blocks) {
                let d = half_at(b, 0);
                for (value, &q) in values.iter_mut().zip(&b[2..]) {
                    *value = d * f32::from(q as i8);
                }
            }
        }
        DType::Q4_0 => {
            for (values, b) in out.chunks_exact_mut(32).zip(blocks) {
                let d = half_at(b, 0);
                let (low, high) = values.split_at_mut(16);
                for ((low, high), &q) in low.iter_mut().zip(high).zip(&b[2..]) {
                    *low = d * (f32::from(q & 15) - 8.0);
                    *high = d * (f32::from(q >> 4) - 8.0);
                }
            }
        }
        DType::Q4_1 => {
            for (values, b) in out.chunks_exact_mut(32).zip(blocks) {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                let (low, high) = values.split_at_mut(16);
                for ((low, high), &q) in low.iter_mut().zip(high).zip(&b[4..]) {
                    *low = d * f32::from(q & 15) + m;
                    *high = d * f32::from(q >> 4) + m;
                }
            }
        }
    }
}
