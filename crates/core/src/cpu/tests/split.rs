use bft_formats::DType;

use super::{Random, wide};
use crate::cpu::pack::Right;
use crate::cpu::simd::panel::{LINES, STEP, TERMS, TILE};
use crate::cpu::simd::vector::three_bf16;
use crate::cpu::simd::{Kernel, Simd, dispatch};
use crate::cpu::split::{Operand, Pack};
use crate::cpu::tile::Left;
use crate::cpu::{WeightRef, gemm_nt};

/// Of every size a float has, the smallest included; the sign and the other bits at random.
fn of_every_size(random: &mut Random) -> Vec<f32> {
    let sizes = (0..255u32).flat_map(|exponent| std::iter::repeat_n(exponent, 40));
    sizes.map(|exponent| f32::from_bits(exponent << 23 | random.bits() as u32 & 0x807f_ffff)).collect()
}

#[test]
fn three_bf16_are_exactly_a_float() {
    for x in of_every_size(&mut Random::new(1)) {
        let parts = three_bf16(x);
        let upper = parts.map(|part| f32::from_bits(part.to_bits() & 0xffff_0000));
        let sum: f64 = wide(&upper).iter().sum();
        // What stands below the last bit of the smallest bf16 is lost.
        assert!((sum - f64::from(x)).abs() <= 2f64.powi(-133), "{x:e} in {parts:?}");
        if x.abs() > 2f32.powi(-110) {
            assert_eq!((sum, upper), (f64::from(x), parts), "{x:e}");
        }
    }
    assert!(three_bf16(f32::NAN).iter().sum::<f32>().is_nan());
    assert!(!three_bf16(f32::INFINITY).iter().sum::<f32>().is_finite());
}

struct Parts<'a>(&'a [f32], &'a [f32]);

impl Kernel for Parts<'_> {
    type Output = Vec<[f32; 3]>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut out = vec![[0.0; 3]; self.0.len()];
        let lanes = out.chunks_exact_mut(S::LANES);
        let pairs = self.0.chunks_exact(S::LANES).zip(self.1.chunks_exact(S::LANES));
        for (out, (low, high)) in lanes.zip(pairs) {
            // SAFETY: LANES each.
            let parts = unsafe { s.bf16_parts(s.load(low.as_ptr()), s.load(high.as_ptr())) };
            for (i, part) in parts.into_iter().enumerate() {
                let mut words = [0.0; 16];
                // SAFETY: no instruction set has more lanes.
                unsafe { s.store(words.as_mut_ptr(), part) };
                for (out, word) in out.iter_mut().zip(words) {
                    out[i] = word;
                }
            }
        }
        out
    }
}

#[test]
fn vectors_split_as_numbers_do_and_lanes_do_not_meet() {
    let mut random = Random::new(2);
    let mut low = of_every_size(&mut random);
    let mut high = low.clone();
    high.reverse();
    low.truncate(low.len() / 16 * 16);
    high.truncate(low.len());
    let words = dispatch(Parts(&low, &high));
    for ((words, low), high) in words.iter().zip(low).zip(high) {
        for ((word, low), high) in words.iter().zip(three_bf16(low)).zip(three_bf16(high)) {
            let expected = low.to_bits() >> 16 | high.to_bits() & 0xffff_0000;
            assert_eq!(word.to_bits(), expected, "{low:e} {high:e}");
        }
    }
}

/// Packs one panel, where zeros must be written, too.
fn packed(operand: Operand<'_>, lines: usize, k: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; k.div_ceil(TERMS) * STEP];
    dispatch(Pack { operand, lines: 0..lines, terms: 0..k, out: &mut out });
    out
}

/// The two bf16 of a word.
fn halves(word: f32) -> [f32; 2] {
    [word.to_bits() << 16, word.to_bits() & 0xffff_0000].map(f32::from_bits)
}

/// What the unit makes of two panels: all products of two bf16 of which one part or the other is
/// the first, or both the second.
fn product(a: &[f32], b: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; LINES * LINES];
    for (a, b) in a.chunks(STEP).zip(b.chunks(STEP)) {
        for (at, sum) in sums.iter_mut().enumerate() {
            let (i, j) = (at / LINES, at % LINES);
            for (p, q) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)] {
                let row = &a[(2 * p + i / 16) * TILE + i % 16 * 16..][..16];
                let column = b[(2 * q + j / 16) * TILE + j % 16..].iter().step_by(16);
                for (&a, &b) in row.iter().zip(column) {
                    let pairs = halves(a).into_iter().zip(halves(b));
                    *sum += pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>();
                }
            }
        }
    }
    sums
}

#[test]
fn panels_of_every_operand_make_the_product() {
    let mut random = Random::new(3);
    for (m, n, k) in [(32, 32, 32), (1, 1, 1), (5, 31, 33), (32, 8, 100), (17, 32, 64)] {
        let (rows, columns) = (random.floats(m * k, -1.0, 1.0), random.floats(n * k, -1.0, 1.0));
        let turned =
            |x: &[f32], lines: usize| -> Vec<f32> { (0..x.len()).map(|i| x[i % lines * k + i / lines]).collect() };
        let (rows_t, columns_t) = (turned(&rows, m), turned(&columns, n));
        let (w, w_t) = (WeightRef::dense(&columns, n, k), WeightRef::dense(&columns_t, k, n));
        for a in [Left::Rows(&rows, k), Left::Columns(&rows_t, m)] {
            for b in [Right::Columns(w), Right::Rows(w_t)] {
                let (a, b) = (Operand::left(a, m, k), Operand::right(b));
                let sums = product(&packed(a, m, k), &packed(b, n, k));
                for (at, sum) in sums.into_iter().enumerate() {
                    let (i, j) = (at / LINES, at % LINES);
                    let (x, y) = if i < m && j < n {
                        (wide(&rows[i * k..][..k]), wide(&columns[j * k..][..k]))
                    } else {
                        (vec![], vec![])
                    };
                    let terms = || x.iter().zip(&y).map(|(x, y)| x * y);
                    let size: f64 = terms().map(f64::abs).sum();
                    let error = (sum - terms().sum::<f64>()).abs();
                    assert!(error <= size * 2f64.powi(-24), "{m} {n} {k}: {i} {j} is off by {error:e}");
                }
            }
        }
    }
}

#[test]
fn panels_hold_what_a_format_stands_for() {
    let mut random = Random::new(4);
    for &dtype in DType::ALL {
        let cols = dtype.block_len().max(64);
        let data = dtype.random(32 * cols, &mut || random.bits());
        let mut dense = vec![0.0; 32 * cols];
        bft_formats::dequantize_row(dtype, &data, &mut dense);
        let w = WeightRef { dtype, rows: 32, cols, data: &data };
        let same = WeightRef::dense(&dense, 32, cols);
        // Compared as numbers: the sign of a zero is nobody's.
        let packed = |b, lines, k| -> Vec<[f32; 2]> {
            let words = packed(Operand::right(b), lines, k);
            words.into_iter().map(halves).collect()
        };
        for (lines, k) in [(32, 64), (20, 32)] {
            let (w, same) = (Right::Columns(w), Right::Columns(same));
            assert!(packed(w, lines, k) == packed(same, lines, k), "{dtype} columns");
        }
        for (lines, k) in [(32, 32), (32, 9)] {
            let (w, same) = (Right::Rows(w), Right::Rows(same));
            assert!(packed(w, lines, k) == packed(same, lines, k), "{dtype} rows");
        }
    }
}

/// The rest of the rows do not notice.
#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (m, n, k) = (100, 70, 64);
    let mut random = Random::new(5);
    let (mut x, w) = (random.floats(m * k, -1.0, 1.0), random.floats(n * k, -1.0, 1.0));
    let product = |x: &[f32]| {
        let mut y = vec![0.0; m * n];
        gemm_nt(x, &w, &mut y, m, n, k, 1.0, 0.0);
        y
    };
    let before = product(&x);
    x[3 * k + 5] = f32::NAN;
    x[40 * k + 63] = f32::INFINITY;
    let after = product(&x);
    for (row, (after, before)) in after.chunks(n).zip(before.chunks(n)).enumerate() {
        if row == 3 || row == 40 {
            assert!(after.iter().all(|y| !y.is_finite()), "row {row}");
        } else {
            assert_eq!(after, before, "row {row}");
        }
    }
}
