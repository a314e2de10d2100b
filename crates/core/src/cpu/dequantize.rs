//! Units of each format to f32, a vector at a time: the same values, bit for bit, as
//! [`bft_formats::dequantize_row`] gives.

use std::ops::Range;

use bft_formats::DType;
use bft_formats::weights::{Blocks, Codes, Halves, UNIT, Visitor};

use super::simd::{Kernel, Simd};
use super::weight::WeightRef;

/// Writes the columns `cols` of each of `rows` to `out`, `stride` elements from row to row. `cols`
/// begins and ends on borders of units.
#[inline(always)]
pub(super) fn dequantize<S: Simd>(
    s: S,
    w: WeightRef<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    s.call(Dequantize { w, rows, cols, out, stride });
}

struct Dequantize<'a> {
    w: WeightRef<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &'a mut [f32],
    stride: usize,
}

impl Kernel for Dequantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sink = Store { out: self.out, stride: self.stride };
        for_each_vector(s, self.w, self.rows, self.cols, &mut sink);
    }
}

/// Writes row behind row.
struct Store<'a> {
    out: &'a mut [f32],
    stride: usize,
}

impl<'a, S: Simd> Sink<S> for Store<'a> {
    type Row = &'a mut [f32];

    #[inline(always)]
    fn begin(&mut self, _: S) -> Self::Row {
        let out = std::mem::take(&mut self.out);
        let (row, rest) = out.split_at_mut(self.stride.min(out.len()));
        self.out = rest;
        row
    }

    #[inline(always)]
    fn take(s: S, row: &mut Self::Row, i: usize, n: usize, x: S::V) {
        let to = &mut row[i..][..n];
        // SAFETY: n elements, of which there are LANES at most.
        unsafe {
            if n == S::LANES {
                s.store(to.as_mut_ptr(), x);
            } else {
                s.store_first(to.as_mut_ptr(), x, n);
            }
        }
    }

    #[inline(always)]
    fn end(&mut self, _: S, _: usize, _: Self::Row) {}
}

/// What elements are decoded for: a trait, not closures, so that it is compiled for the kernel's
/// instruction set however often it is called.
pub(super) trait Sink<S: Simd> {
    /// What a row's elements add up to: a value of the loop's own, so that it stays in registers.
    type Row;

    /// What a row begins with.
    fn begin(&mut self, s: S) -> Self::Row;

    /// Takes the elements `i..i + n` of those asked for, in the first n lanes of x; the other lanes
    /// are 0.
    fn take(s: S, of: &mut Self::Row, i: usize, n: usize, x: S::V);

    /// Takes what a row of W has come to.
    fn end(&mut self, s: S, row: usize, of: Self::Row);
}

/// Gives the columns `cols` of each of `rows`, whole units, to `sink`. Only the last of a format
/// without blocks are fewer than LANES. A unit's elements need not come in ascending order.
#[inline(always)]
pub(super) fn for_each_vector<S: Simd, K: Sink<S>>(
    s: S,
    w: WeightRef<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    sink: &mut K,
) {
    match w.dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            for row in rows {
                let mut of = sink.begin(s);
                plain::<S, K>(s, w, row * w.cols + cols.start..row * w.cols + cols.end, &mut of);
                sink.end(s, row, of);
            }
        }
        // The format is asked for once, not for each row, of which a small model's is soon done.
        dtype => {
            dtype.visit(EachVector { s, w, rows, cols, sink });
        }
    }
}

/// Elements of a format without blocks.
#[inline(always)]
fn plain<S: Simd, K: Sink<S>>(s: S, w: WeightRef<'_>, elements: Range<usize>, of: &mut K::Row) {
    let (dtype, size, len) = (w.dtype, w.dtype.block_bytes(), elements.len());
    let bytes = &w.data[elements.start * size..elements.end * size];
    let whole = len / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: LANES elements from i on are inside.
        K::take(s, of, i, S::LANES, unsafe { load(s, dtype, bytes[size * i..].as_ptr()) });
    }
    if whole < len {
        let rest = &bytes[size * whole..];
        let mut padded = [0u8; 4 * 16];
        padded[..rest.len()].copy_from_slice(rest);
        // SAFETY: sixteen elements of four bytes are the most that LANES are.
        K::take(s, of, whole, len - whole, unsafe { load(s, dtype, padded.as_ptr()) });
    }
}

/// # Safety
/// LANES elements of `dtype`, which has no blocks, readable at `p`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, dtype: DType, p: *const u8) -> S::V {
    // SAFETY: as the function's.
    unsafe {
        match dtype {
            DType::F32 => s.load(p.cast()),
            DType::F16 => s.load_f16(p),
            _ => s.load_bf16(p),
        }
    }
}

struct EachVector<'a, 'k, S, K> {
    s: S,
    w: WeightRef<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    sink: &'k mut K,
}

impl<S: Simd, K: Sink<S>> Visitor for EachVector<'_, '_, S, K> {
    type Output = ();

    #[inline(always)]
    fn visit<F: Blocks>(self) {
        // The format is known when this is compiled, so no division is left.
        let (len, bytes) = (F::SPEC.block_len, F::SPEC.block_bytes);
        let Range { start, end } = self.cols;
        debug_assert!(start.is_multiple_of(UNIT) && end.is_multiple_of(UNIT), "borders of units");
        for row in self.rows.clone() {
            let mut of = self.sink.begin(self.s);
            let (start, end) = (row * self.w.cols + start, row * self.w.cols + end);
            let blocks = &self.w.data[start / len * bytes..end.div_ceil(len) * bytes];
            if len == UNIT {
                for (done, block) in blocks.chunks_exact(bytes).enumerate() {
                    self.unit::<F>(&mut of, block, 0, done * UNIT);
                }
            } else {
                // `done` counts units, so that a sink that takes vectors by turns knows when
                // compiling whose turn it is.
                let (count, mut done, mut index) = ((end - start) / UNIT, 0, start % len / UNIT);
                for block in blocks.chunks_exact(bytes) {
                    while index < len / UNIT && done < count {
                        self.unit::<F>(&mut of, block, index, done * UNIT);
                        (done, index) = (done + 1, index + 1);
                    }
                    index = 0;
                }
            }
            self.sink.end(self.s, row, of);
        }
    }
}

/// The instruction set's way with halves.
#[derive(Clone, Copy)]
struct Hardware<S>(S);

impl<S: Simd> Halves for Hardware<S> {
    #[inline(always)]
    fn of(self, bits: u16) -> f32 {
        self.0.half(bits)
    }
}

impl<S: Simd, K: Sink<S>> EachVector<'_, '_, S, K> {
    #[inline(always)]
    fn unit<F: Blocks>(&self, of: &mut K::Row, block: &[u8], index: usize, at: usize) {
        let s = self.s;
        let unit = F::unit(block, index, Hardware(s));
        let scale = [s.splat(unit.scale[0]), s.splat(unit.scale[1])];
        // A closure would not be compiled for the instruction set.
        #[allow(clippy::manual_map)]
        let min = match unit.min {
            Some(min) => Some([s.splat(min[0]), s.splat(min[1])]),
            None => None,
        };
        match &unit.codes {
            Codes::Bytes(codes) => self.bytes(of, codes, scale, min, at),
            Codes::Unpacked(codes) => self.bytes(of, codes, scale, min, at),
            Codes::Fields(low, high, less) => {
                let codes = s.fields(*low, *high, *less);
                self.bytes(of, &codes, scale, min, at);
            }
            Codes::Fives(nibbles, fifth, less) => {
                let codes = s.five_bits(nibbles, fifth, *less);
                self.bytes(of, &codes, scale, min, at);
            }
            Codes::Nibbles(codes) => {
                // Formats of nibbles have one scale and a minimum for the whole unit.
                let m = match min {
                    Some(min) => min[0],
                    None => s.splat(0.0),
                };
                for i in (0..UNIT / 2).step_by(S::LANES) {
                    // SAFETY: LANES of the sixteen bytes.
                    let (low, high) = unsafe { s.load_nibbles(codes.as_ptr().add(i), scale[0], m) };
                    K::take(s, of, at + i, S::LANES, low);
                    K::take(s, of, at + UNIT / 2 + i, S::LANES, high);
                }
            }
            Codes::Table(codes, values) => {
                for i in (0..UNIT / 2).step_by(S::LANES) {
                    // SAFETY: LANES of the sixteen bytes.
                    let (low, high) = unsafe { s.load_table(codes.as_ptr().add(i), values) };
                    K::take(s, of, at + i, S::LANES, s.mul(scale[0], low));
                    K::take(s, of, at + UNIT / 2 + i, S::LANES, s.mul(scale[1], high));
                }
            }
        }
    }

    #[inline(always)]
    fn bytes(&self, of: &mut K::Row, codes: &[u8; UNIT], scale: [S::V; 2], min: Option<[S::V; 2]>, at: usize) {
        let s = self.s;
        for i in (0..UNIT).step_by(S::LANES) {
            // SAFETY: LANES of the 32 bytes.
            let q = unsafe { s.load_i8(codes.as_ptr().add(i)) };
            let product = s.mul(scale[i / 16], q);
            let x = match min {
                Some(min) => s.add(product, min[i / 16]),
                None => product,
            };
            K::take(s, of, at + i, S::LANES, x);
        }
    }
}
