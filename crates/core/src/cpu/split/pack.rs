//! Lines of an operand become panels of bf16 parts, in the order the tiles take them.

use std::ops::Range;

use bft_formats::DType;
use bft_formats::weights::UNIT;

use crate::cpu::dequantize::dequantize;
use crate::cpu::pack::Right;
use crate::cpu::simd::panel::{LINES, PARTS, STEP, TERMS, TILE};
use crate::cpu::simd::{Kernel, Simd};
use crate::cpu::tile::Left;
use crate::cpu::weight::WeightRef;

/// A`[m, k]` or B`[k, n]`: a matrix, and how the product meets it. Its lines are the rows of A or
/// the columns of B.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Operand<'a> {
    matrix: WeightRef<'a>,
    /// Whether a line is a row of the matrix. Otherwise it is a column.
    rows: bool,
    /// Whether a line is a row of its tiles, as in A's. In B's it is a column.
    tile_rows: bool,
}

impl<'a> Operand<'a> {
    pub(in crate::cpu) fn left(a: Left<'a>, m: usize, k: usize) -> Self {
        let (a, stride, count, rows) = match a {
            Left::Rows(a, stride) => (a, stride, m, true),
            Left::Columns(a, stride) => (a, stride, k, false),
        };
        let matrix = WeightRef { dtype: DType::F32, rows: count, cols: stride, data: bytemuck::cast_slice(a) };
        Operand { matrix, rows, tile_rows: true }
    }

    pub(in crate::cpu) fn right(b: Right<'a>) -> Self {
        let (matrix, rows) = match b {
            Right::Columns(w) => (w, true),
            Right::Rows(w) => (w, false),
        };
        Operand { matrix, rows, tile_rows: false }
    }
}

/// Packs one panel: of each step the first parts, then the second, then the third, of lines 0 to 15
/// and of lines 16 to 31.
///
/// A word holds two terms of a line: 0 and 16 of the step, 1 and 17, and so on, which spares
/// shuffles. A row of a tile holds the sixteen words of a line of A, or the same word of sixteen
/// lines of B.
pub(in crate::cpu) struct Pack<'a> {
    pub operand: Operand<'a>,
    pub lines: Range<usize>,
    pub terms: Range<usize>,
    pub out: &'a mut [f32],
}

/// LINES × TERMS elements, or TERMS × LINES, of a matrix.
type Square = [[f32; 32]; 32];

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(LINES == 32 && TERMS == 32 && LINES.is_multiple_of(UNIT) && TERMS.is_multiple_of(UNIT)) };
        let Operand { matrix, rows, tile_rows } = self.operand;
        let mut square = [[0.0; 32]; 32];
        let mut turned = [[0.0; TILE]; PARTS];
        let steps = chunks(self.terms, TERMS).zip(self.out.chunks_exact_mut(STEP));
        for (terms, out) in steps {
            let (of_rows, of_cols) = if rows { (self.lines.clone(), terms) } else { (terms, self.lines.clone()) };
            let (from, stride) = elements(s, matrix, of_rows, of_cols, &mut square);
            // From one tile to the next, and from the first to the second half of a word.
            let (tile_step, half) = if rows { (16 * stride, 16) } else { (16, 16 * stride) };
            for tile in 0..2 {
                let mut to = [0, 1, 2].map(|part| (part * 2 + tile) * TILE).map(|at| out[at..].as_mut_ptr());
                if rows != tile_rows {
                    to = turned.each_mut().map(|tile| tile.as_mut_ptr());
                }
                for i in 0..16 {
                    for lane in (0..16).step_by(S::LANES) {
                        // SAFETY: 32 rows of 32 stand at `from`, sixteen of sixteen at each of
                        // `to`.
                        unsafe {
                            let first = from.add(tile * tile_step + i * stride + lane);
                            let parts = s.bf16_parts(s.load(first), s.load(first.add(half)));
                            for (to, words) in to.into_iter().zip(parts) {
                                s.store(to.add(i * 16 + lane), words);
                            }
                        }
                    }
                }
                if rows != tile_rows {
                    for (part, turned) in turned.iter().enumerate() {
                        turn(s, turned, &mut out[(part * 2 + tile) * TILE..][..TILE]);
                    }
                }
            }
        }
    }
}

/// Where 32 rows of 32 columns of the matrix stand, with their stride: in it, or in `square`, with
/// zeros for what is not there.
#[inline(always)]
fn elements<S: Simd>(
    s: S,
    matrix: WeightRef<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    square: &mut Square,
) -> (*const f32, usize) {
    let whole = rows.len() == 32 && cols.len() == 32;
    if whole && matrix.dtype == DType::F32 {
        let first = rows.start * matrix.cols + cols.start;
        assert!((first + 31 * matrix.cols + 32) * 4 <= matrix.data.len(), "32 rows of 32");
        // SAFETY: inside, as just asserted.
        return (unsafe { matrix.data.as_ptr().cast::<f32>().add(first) }, matrix.cols);
    }
    if !whole {
        *square = [[0.0; 32]; 32];
    }
    dequantize(s, matrix, rows, cols, square.as_flattened_mut(), 32);
    (square.as_ptr().cast(), 32)
}

/// Rows of a tile to columns.
#[inline(always)]
fn turn<S: Simd>(s: S, from: &[f32; TILE], to: &mut [f32]) {
    assert_eq!(to.len(), TILE, "a tile");
    for i in (0..16).step_by(S::LANES) {
        for j in (0..16).step_by(S::LANES) {
            // SAFETY: both are sixteen rows of sixteen.
            unsafe {
                let (from, to) = (from.as_ptr(), to.as_mut_ptr());
                s.transpose(from.add(i * 16 + j), 16, to.add(j * 16 + i), 16);
            }
        }
    }
}

/// The range in pieces of `len`; the last may be shorter.
#[inline(always)]
pub(super) fn chunks(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(len).map(move |i| i..end.min(i + len))
}
