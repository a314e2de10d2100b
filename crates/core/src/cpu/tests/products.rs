use bft_formats::{DType, dequantize_row};

use super::{Random, assert_close, wide};
use crate::cpu::{FEW_ROWS, WeightRef, gemm_nn, gemm_nt, gemm_tn, linear_nn, linear_nt};
use crate::real::Real;

const DTYPES: &[DType] = DType::ALL;

/// What rounding may take from a sum of about a thousand products, as a part of the sum of their
/// sizes.
const TOLERANCE: f64 = 5e-7;

/// α · Σₖ a(i, k) · b(k, j) + β · c, where with β = 0 c does not count; and the same sum of
/// absolute values.
fn naive(
    (m, n, k): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    c: &[f32],
    alpha: f32,
    beta: f32,
) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|k| f64::from(alpha) * f64::from(a(i, k)) * f64::from(b(k, j)));
            let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(c[i * n + j]) };
            out.push(terms.fold((old, old.abs()), |(sum, size), x| (sum + x, size + x.abs())));
        }
    }
    out
}

#[track_caller]
fn assert_sums(what: &str, y: &[f32], expected: &[(f64, f64)]) {
    assert_eq!(y.len(), expected.len(), "{what}");
    for (i, (&y, &(sum, size))) in y.iter().zip(expected).enumerate() {
        let error = (f64::from(y) - sum).abs() / (size + 1e-30);
        // Also false for a NaN.
        assert!(error <= TOLERANCE, "{what}: element {i} is {y}, expected {sum} (error {error:.2e} of its terms)");
    }
}

/// What the output holds before: NaN where it must not be read.
fn before(random: &mut Random, len: usize, beta: f32) -> Vec<f32> {
    if beta == 0.0 { vec![f32::NAN; len] } else { random.floats(len, -1.0, 1.0) }
}

const SCALES: [(f32, f32); 4] = [(1.0, 0.0), (1.0, 1.0), (0.5, 0.0), (-1.5, 0.25)];

/// Around the tiles' sizes: 8 rows, 16, 32 and 48 columns, blocks of 96 and 192 columns and 512
/// terms.
const SIZES: [(usize, usize, usize); 26] = [
    (1, 1, 1),
    (1, 4, 4),
    (2, 3, 5),
    (3, 16, 16),
    (5, 17, 31),
    (7, 33, 8),
    (8, 48, 64),
    (9, 49, 65),
    (13, 15, 511),
    (15, 47, 512),
    (16, 64, 513),
    (17, 95, 100),
    (31, 96, 33),
    (33, 97, 40),
    (64, 16, 576),
    (70, 4, 576),
    (67, 192, 16),
    (127, 100, 4),
    (128, 144, 12),
    (129, 31, 1030),
    (300, 64, 257),
    (257, 193, 7),
    (12, 400, 130),
    (208, 9, 65),
    (65, 97, 100),
    (100, 70, 65),
];

fn check_gemm((m, n, k): (usize, usize, usize)) {
    let mut random = Random::new((m * 1_000_003 + n * 1009 + k) as u64);
    let (a, b) = (random.floats(m * k, -1.0, 1.0), random.floats(n * k, -1.0, 1.0));
    for (alpha, beta) in SCALES {
        let c = before(&mut random, m * n, beta);
        let at = format!("{m} {n} {k} alpha {alpha} beta {beta}");
        let mut y = c.clone();
        gemm_nt(&a, &b, &mut y, m, n, k, alpha, beta);
        let expected = naive((m, n, k), |i, t| a[i * k + t], |t, j| b[j * k + t], &c, alpha, beta);
        assert_sums(&format!("nt {at}"), &y, &expected);
        let mut y = c.clone();
        gemm_nn(&a, &b, &mut y, m, n, k, alpha, beta);
        let expected = naive((m, n, k), |i, t| a[i * k + t], |t, j| b[t * n + j], &c, alpha, beta);
        assert_sums(&format!("nn {at}"), &y, &expected);
        let mut y = c.clone();
        gemm_tn(&a, &b, &mut y, m, n, k, alpha, beta);
        let expected = naive((m, n, k), |i, t| a[t * m + i], |t, j| b[t * n + j], &c, alpha, beta);
        assert_sums(&format!("tn {at}"), &y, &expected);
    }
}

#[test]
fn dense_products_match_the_sum_at_every_edge() {
    SIZES.into_iter().for_each(check_gemm);
}

#[test]
fn dense_products_match_at_model_shapes() {
    // LoRA down, up, and the gradients of A and B, over 1,024 tokens.
    for size in [(1024, 16, 576), (1024, 576, 16), (16, 576, 1024), (576, 16, 1024), (64, 1536, 300)] {
        check_gemm(size);
    }
}

/// More rows, columns and terms than any block has; a few hundred elements of each product.
#[test]
fn dense_products_of_many_blocks_match_the_sum() {
    for (m, n, k) in [(800, 790, 1536), (900, 1000, 768), (1100, 96, 800), (70, 900, 1030)] {
        let mut random = Random::new((m + n + k) as u64);
        let (a, b) = (random.floats(m * k, -1.0, 1.0), random.floats(n * k, -1.0, 1.0));
        let (alpha, beta) = (-1.5, 0.25);
        let c = random.floats(m * n, -1.0, 1.0);
        let mut y = [c.clone(), c.clone(), c.clone()];
        gemm_nt(&a, &b, &mut y[0], m, n, k, alpha, beta);
        gemm_nn(&a, &b, &mut y[1], m, n, k, alpha, beta);
        gemm_tn(&a, &b, &mut y[2], m, n, k, alpha, beta);
        for at in (0..m * n).step_by(m * n / 301) {
            let (i, j) = (at / n, at % n);
            let sum = |terms: &dyn Fn(usize) -> (f32, f32)| {
                naive((1, 1, k), |_, t| terms(t).0, |t, _| terms(t).1, &c[at..], alpha, beta)
            };
            let expected = [
                sum(&|t| (a[i * k + t], b[j * k + t])),
                sum(&|t| (a[i * k + t], b[t * n + j])),
                sum(&|t| (a[t * m + i], b[t * n + j])),
            ];
            for ((y, expected), kind) in y.iter().zip(expected).zip(["nt", "nn", "tn"]) {
                assert_sums(&format!("{kind} {m} {n} {k} at {i} {j}"), &y[at..=at], &expected);
            }
        }
    }
}

#[test]
fn dense_products_in_f64_are_exact_to_f64() {
    let mut random = Random::new(5);
    let (m, n, k) = (9, 21, 33);
    let (a, b) = (random.floats(m * k, -1.0, 1.0), random.floats(n * k, -1.0, 1.0));
    let mut y = vec![f64::NAN; m * n];
    gemm_nt(&wide(&a), &wide(&b), &mut y, m, n, k, 2.0, 0.0);
    let expected = naive((m, n, k), |i, t| a[i * k + t], |t, j| b[j * k + t], &[], 2.0, 0.0);
    for (y, (e, _)) in y.iter().zip(&expected) {
        assert!((y - e).abs() < 1e-13, "{y} {e}");
    }
}

fn dense(dtype: DType, bytes: &[u8], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    let row_bytes = dtype.row_bytes(cols);
    for (row, bytes) in out.chunks_exact_mut(cols).zip(bytes.chunks_exact(row_bytes)) {
        dequantize_row(dtype, bytes, row);
    }
    out
}

/// Rounds `cols` up to whole blocks.
fn check_linear(dtype: DType, m: usize, rows: usize, cols: usize) {
    let cols = cols.next_multiple_of(dtype.block_len());
    let mut random = Random::new((m * 1_000_003 + rows * 1009 + cols) as u64);
    let bytes = dtype.random(rows * cols, &mut || random.bits());
    let w = WeightRef { dtype, rows, cols, data: &bytes };
    let dense = dense(dtype, &bytes, rows, cols);
    let (x, dy) = (random.floats(m * cols, -1.0, 1.0), random.floats(m * rows, -1.0, 1.0));
    for (alpha, beta) in SCALES {
        let at = format!("{dtype} {m} x [{rows}, {cols}] alpha {alpha} beta {beta}");
        let c = before(&mut random, m * rows, beta);
        let mut y = c.clone();
        linear_nt(&x, w, &mut y, m, alpha, beta);
        let (x, dy) = (|i, t| x[i * cols + t], |i, t| dy[i * rows + t]);
        let expected = naive((m, rows, cols), x, |t, j| dense[j * cols + t], &c, alpha, beta);
        assert_sums(&format!("nt {at}"), &y, &expected);
        let c = before(&mut random, m * cols, beta);
        let mut dx = c.clone();
        linear_nn(&random_dy(&dy, m, rows), w, &mut dx, m, alpha, beta);
        let expected = naive((m, cols, rows), dy, |t, j| dense[t * cols + j], &c, alpha, beta);
        assert_sums(&format!("nn {at}"), &dx, &expected);
    }
}

fn random_dy(dy: &impl Fn(usize, usize) -> f32, m: usize, rows: usize) -> Vec<f32> {
    (0..m * rows).map(|i| dy(i / rows, i % rows)).collect()
}

#[test]
fn frozen_products_match_the_sum_in_every_format() {
    for &dtype in DTYPES {
        for m in [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 100] {
            check_linear(dtype, m, 50, 96);
        }
        for (rows, cols) in [(1, 32), (4, 64), (17, 32), (47, 160), (49, 544), (97, 1056), (516, 32)] {
            for m in [1, 3, 8, 13, 40, 70] {
                check_linear(dtype, m, rows, cols);
            }
        }
    }
}

#[test]
fn plain_formats_need_only_a_multiple_of_four() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (m, rows, cols) in [(1, 5, 4), (3, 20, 36), (9, 52, 100), (33, 28, 516), (70, 76, 100)] {
            check_linear(dtype, m, rows, cols);
        }
    }
}

#[test]
fn frozen_products_match_at_model_shapes() {
    for (dtype, rows, cols) in
        [(DType::Q4_1, 576, 576), (DType::Q4_1, 192, 576), (DType::Q4_1, 576, 1536), (DType::Q8_0, 1536, 576)]
    {
        for m in [1, 70] {
            check_linear(dtype, m, rows, cols);
        }
    }
}

#[test]
fn frozen_products_in_f64_are_exact_to_f64() {
    let (m, rows, cols) = (3, 70, 64);
    let mut random = Random::new(3);
    let bytes = DType::Q4_1.random(rows * cols, &mut || random.bits());
    let w = WeightRef { dtype: DType::Q4_1, rows, cols, data: &bytes };
    let dense = dense(DType::Q4_1, &bytes, rows, cols);
    let (x, dy) = (random.floats(m * cols, -1.0, 1.0), random.floats(m * rows, -1.0, 1.0));
    let (mut y, mut dx) = (vec![f64::NAN; m * rows], vec![f64::NAN; m * cols]);
    linear_nt(&wide(&x), w, &mut y, m, 1.0, 0.0);
    linear_nn(&wide(&dy), w, &mut dx, m, 1.0, 0.0);
    let nt = naive((m, rows, cols), |i, t| x[i * cols + t], |t, j| dense[j * cols + t], &[], 1.0, 0.0);
    let nn = naive((m, cols, rows), |i, t| dy[i * rows + t], |t, j| dense[t * cols + j], &[], 1.0, 0.0);
    for (a, (b, _)) in y.iter().zip(&nt).chain(dx.iter().zip(&nn)) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn a_chunk_of_rows_is_that_part_of_the_product() {
    let (m, rows, cols) = (5, 40, 64);
    let mut random = Random::new(9);
    let bytes = DType::Q8_0.random(rows * cols, &mut || random.bits());
    let w = WeightRef { dtype: DType::Q8_0, rows, cols, data: &bytes };
    let x = random.floats(m * cols, -1.0, 1.0);
    let (mut whole, mut part) = (vec![0.0f32; m * rows], vec![0.0f32; m * 12]);
    linear_nt(&x, w, &mut whole, m, 1.0, 0.0);
    linear_nt(&x, w.rows(7, 12), &mut part, m, 1.0, 0.0);
    for (whole, part) in whole.chunks(rows).zip(part.chunks(12)) {
        assert_close("chunk", part, &wide(&whole[7..19]), 1e-6);
    }
}

/// What a text in progress says must not depend on how many are written with it.
#[test]
fn a_row_among_few_is_the_same_bits_however_many_they_are() {
    for (&dtype, cols) in DTYPES.iter().zip([256usize, 96, 544].into_iter().cycle()) {
        let (rows, cols) = (37, cols.next_multiple_of(dtype.block_len()));
        let mut random = Random::new(cols as u64);
        let bytes = dtype.random(rows * cols, &mut || random.bits());
        let w = WeightRef { dtype, rows, cols, data: &bytes };
        let x = random.floats(FEW_ROWS * cols, -1.0, 1.0);
        let alone: Vec<Vec<f32>> = x.chunks(cols).map(|x| product(x, w, 1)).collect();
        for m in 2..=FEW_ROWS {
            assert!(product(&x[..m * cols], w, m) == alone[..m].concat(), "{m} rows of {dtype}");
        }
    }
}

fn product(x: &[f32], w: WeightRef<'_>, m: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; m * w.rows];
    linear_nt(x, w, &mut y, m, 1.0, 0.0);
    y
}

/// One row of the product, whatever stands beside it and however many threads there are, is the
/// same bytes.
#[test]
fn products_do_not_depend_on_the_number_of_threads() {
    fn run<T: Real>(threads: usize, x: &[T], dy: &[T], w: WeightRef<'_>, m: usize) -> (Vec<T>, Vec<T>, Vec<T>) {
        let (mut y, mut dx) = (vec![T::ZERO; m * w.rows], vec![T::ZERO; m * w.cols]);
        let mut dw = vec![T::ZERO; w.rows * w.cols];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            linear_nt(x, w, &mut y, m, T::ONE, T::ZERO);
            linear_nn(dy, w, &mut dx, m, T::ONE, T::ZERO);
            gemm_tn(dy, x, &mut dw, w.rows, w.cols, m, T::ONE, T::ZERO);
        });
        (y, dx, dw)
    }
    for m in [1, 6, 150] {
        let (rows, cols) = (200, 576);
        let mut random = Random::new(11);
        let bytes = DType::Q4_1.random(rows * cols, &mut || random.bits());
        let w = WeightRef { dtype: DType::Q4_1, rows, cols, data: &bytes };
        let (x, dy) = (random.floats(m * cols, -1.0, 1.0), random.floats(m * rows, -1.0, 1.0));
        let one = run(1, &x, &dy, w, m);
        for threads in [1, 2, 3, 16] {
            assert!(run(threads, &x, &dy, w, m) == one, "{m} rows on {threads} threads");
        }
    }
}
