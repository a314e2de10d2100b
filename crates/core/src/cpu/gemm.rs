//! Dense products: NT, NN and TN, named by which operand is read transposed.

use std::any::TypeId;

use gemm_common::Parallelism;

use super::pack::Right;
use super::product::product;
use super::tile::Left;
use super::weight::WeightRef;
use super::{gradient, small};
use crate::real::Real;

/// C`[m, n]` = α · A`[m, k]` · B`[n, k]`ᵀ + β · C
pub fn gemm_nt<T: Real>(a: &[T], b: &[T], c: &mut [T], m: usize, n: usize, k: usize, alpha: T, beta: T) {
    let lengths = (a.len(), b.len(), c.len());
    assert_eq!(lengths, (m * k, n * k, m * n), "gemm_nt lengths");
    if let (Some(a), Some(b), Some(c)) = (T::f32s(a), T::f32s(b), T::f32s_mut(c)) {
        let b = WeightRef::dense(b, n, k);
        if m <= small::MAX_ROWS {
            return small::product(a, b, c, m, alpha.to_f32(), beta.to_f32());
        }
        let (a, b) = (Left::Rows(a, k), Right::Columns(b));
        return product((m, n, k), a, b, c, n, alpha.to_f32(), beta.to_f32());
    }
    strided((m, n, k), (a, k, 1), (b, 1, k), c, n, alpha, beta);
}

/// C`[m, n]` = α · A`[m, k]` · B`[k, n]` + β · C
pub fn gemm_nn<T: Real>(a: &[T], b: &[T], c: &mut [T], m: usize, n: usize, k: usize, alpha: T, beta: T) {
    let lengths = (a.len(), b.len(), c.len());
    assert_eq!(lengths, (m * k, k * n, m * n), "gemm_nn lengths");
    if let (Some(a), Some(b), Some(c)) = (T::f32s(a), T::f32s(b), T::f32s_mut(c)) {
        let (a, b) = (Left::Rows(a, k), Right::Rows(WeightRef::dense(b, k, n)));
        return product((m, n, k), a, b, c, n, alpha.to_f32(), beta.to_f32());
    }
    strided((m, n, k), (a, k, 1), (b, n, 1), c, n, alpha, beta);
}

/// C`[m, n]` = α · A`[k, m]`ᵀ · B`[k, n]` + β · C, as in the gradient of a weight, where k counts
/// tokens.
pub fn gemm_tn<T: Real>(a: &[T], b: &[T], c: &mut [T], m: usize, n: usize, k: usize, alpha: T, beta: T) {
    let lengths = (a.len(), b.len(), c.len());
    assert_eq!(lengths, (k * m, k * n, m * n), "gemm_tn lengths");
    if let (Some(a), Some(b), Some(c)) = (T::f32s(a), T::f32s(b), T::f32s_mut(c)) {
        let (alpha, beta) = (alpha.to_f32(), beta.to_f32());
        if gradient::fits(m, n) {
            return gradient::gradient((k, m, n), a, b, c, false, alpha, beta);
        }
        if gradient::fits(n, m) {
            return gradient::gradient((k, n, m), b, a, c, true, alpha, beta);
        }
        let (a, b) = (Left::Columns(a, m), Right::Rows(WeightRef::dense(b, k, n)));
        return product((m, n, k), a, b, c, n, alpha, beta);
    }
    strided((m, n, k), (a, 1, m), (b, n, 1), c, n, alpha, beta);
}

/// The product with (row, column) strides for A`[m, k]` and B`[k, n]`, and a row stride for C, in
/// f64 by the crate `gemm-f64`: f32 has kernels of its own.
pub(super) fn strided<T: Real>(
    (m, n, k): (usize, usize, usize),
    (a, a_row, a_col): (&[T], usize, usize),
    (b, b_row, b_col): (&[T], usize, usize),
    c: &mut [T],
    c_row: usize,
    alpha: T,
    beta: T,
) {
    assert!(TypeId::of::<T>() == TypeId::of::<f64>(), "a strided product of {}", std::any::type_name::<T>());
    if m == 0 || n == 0 {
        return;
    }
    let last = |rows: usize, row: usize, cols: usize, col: usize| (rows - 1) * row + (cols - 1) * col;
    if k > 0 {
        assert!(last(m, a_row, k, a_col) < a.len() && last(k, b_row, n, b_col) < b.len());
    }
    assert!(last(m, c_row, n, 1) < c.len() && c_row >= n);
    // The transposed product is asked for, Cᵀ = Bᵀ·Aᵀ: `gemm_f64` likes a result whose columns are
    // dense. It calls C's factor α and the product's β. SAFETY: T is f64, by the first assertion.
    // The others keep every index the strides can make inside the slices; C's elements are distinct
    // because its row stride is at least n.
    unsafe {
        gemm_f64::gemm::f64::get_gemm_fn()(
            n,
            m,
            k,
            c.as_mut_ptr().cast(),
            c_row as isize,
            1,
            beta != T::ZERO,
            b.as_ptr().cast(),
            b_row as isize,
            b_col as isize,
            a.as_ptr().cast(),
            a_row as isize,
            a_col as isize,
            beta.to_f64(),
            alpha.to_f64(),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
