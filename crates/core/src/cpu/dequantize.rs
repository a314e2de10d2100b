//! Units of each format to f32, a vector at a time: the same values, bit for bit, as
//! [`bft_formats::dequantize_row`] gives.

use bft_formats::DType;
use bft_formats::weights::{Blocks, Codes, UNIT, Visitor};

use super::simd::{Kernel, Simd};
use super::weight::Units;

/// Writes the elements of `units` to `out`.
#[inline(always)]
pub(super) fn dequantize<S: Simd>(s: S, units: Units<'_>, out: &mut [f32]) {
    assert_eq!(units.len, out.len(), "elements");
    s.call(Dequantize { units, out });
}

struct Dequantize<'a> {
    units: Units<'a>,
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_each_vector(s, self.units, |i, n, x| {
            // SAFETY: `dequantize` asserts that n elements from i on are inside.
            unsafe {
                let to = self.out.as_mut_ptr().add(i);
                if n == S::LANES {
                    s.store(to, x);
                } else {
                    s.store_first(to, x, n);
                }
            }
        });
    }
}

/// Calls `f(i, n, x)` with the elements `i..i + n` of `units` in the first n lanes of x; the other
/// lanes are 0. Only the last call of a format without blocks has n < LANES. A unit's calls need
/// not be in ascending order.
#[inline(always)]
pub(super) fn for_each_vector<S: Simd>(s: S, units: Units<'_>, f: impl FnMut(usize, usize, S::V)) {
    match units.dtype {
        DType::F32 => plain(
            s,
            units,
            4,
            |p| {
                // SAFETY: LANES elements stand at p.
                unsafe { s.load(p.cast()) }
            },
            f,
        ),
        // SAFETY: as above.
        DType::F16 => plain(s, units, 2, |p| unsafe { s.load_f16(p) }, f),
        // SAFETY: as above.
        DType::BF16 => plain(s, units, 2, |p| unsafe { s.load_bf16(p) }, f),
        dtype => {
            dtype.visit(EachVector { s, units, f });
        }
    }
}

/// Elements of `size` bytes each, of which `load` takes LANES.
#[inline(always)]
fn plain<S: Simd>(
    _: S,
    units: Units<'_>,
    size: usize,
    load: impl Fn(*const u8) -> S::V,
    mut f: impl FnMut(usize, usize, S::V),
) {
    let bytes = &units.blocks[..units.len * size];
    let whole = units.len / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        f(i, S::LANES, load(bytes[size * i..].as_ptr()));
    }
    if whole < units.len {
        let rest = &bytes[size * whole..];
        let mut padded = [0u8; 4 * 16];
        padded[..rest.len()].copy_from_slice(rest);
        f(whole, units.len - whole, load(padded.as_ptr()));
    }
}

struct EachVector<'a, S, F> {
    s: S,
    units: Units<'a>,
    f: F,
}

impl<S: Simd, G: FnMut(usize, usize, S::V)> Visitor for EachVector<'_, S, G> {
    type Output = ();

    #[inline(always)]
    fn visit<F: Blocks>(mut self) {
        let (mut at, mut index) = (0, self.units.first);
        for block in self.units.blocks.chunks_exact(F::SPEC.block_bytes) {
            while index < F::SPEC.block_len / UNIT && at < self.units.len {
                self.unit::<F>(block, index, at);
                (at, index) = (at + UNIT, index + 1);
            }
            index = 0;
        }
    }
}

impl<S: Simd, G: FnMut(usize, usize, S::V)> EachVector<'_, S, G> {
    #[inline(always)]
    fn unit<F: Blocks>(&mut self, block: &[u8], index: usize, at: usize) {
        let s = self.s;
        let unit = F::unit(block, index, |bits| s.half(bits));
        let (scale, min) = (unit.scale.map(|d| s.splat(d)), unit.min.map(|min| min.map(|m| s.splat(m))));
        match &unit.codes {
            Codes::Bytes(codes) => self.bytes(codes, scale, min, at),
            Codes::Unpacked(codes) => self.bytes(codes, scale, min, at),
            Codes::Nibbles(codes) => {
                // Formats of nibbles have one scale and a minimum for the whole unit.
                let m = min.map_or(s.splat(0.0), |min| min[0]);
                for i in (0..UNIT / 2).step_by(S::LANES) {
                    // SAFETY: LANES of the sixteen bytes.
                    let (low, high) = unsafe { s.load_nibbles(codes.as_ptr().add(i), scale[0], m) };
                    (self.f)(at + i, S::LANES, low);
                    (self.f)(at + UNIT / 2 + i, S::LANES, high);
                }
            }
            Codes::Table(codes, values) => {
                for i in (0..UNIT / 2).step_by(S::LANES) {
                    // SAFETY: LANES of the sixteen bytes.
                    let (low, high) = unsafe { s.load_table(codes.as_ptr().add(i), values) };
                    (self.f)(at + i, S::LANES, s.mul(scale[0], low));
                    (self.f)(at + UNIT / 2 + i, S::LANES, s.mul(scale[1], high));
                }
            }
        }
    }

    #[inline(always)]
    fn bytes(&mut self, codes: &[u8; UNIT], scale: [S::V; 2], min: Option<[S::V; 2]>, at: usize) {
        let s = self.s;
        for i in (0..UNIT).step_by(S::LANES) {
            // SAFETY: LANES of the 32 bytes.
            let q = unsafe { s.load_i8(codes.as_ptr().add(i)) };
            let product = s.mul(scale[i / 16], q);
            let x = min.map_or(product, |min| s.add(product, min[i / 16]));
            (self.f)(at + i, S::LANES, x);
        }
    }
}
