//! What a pair of PiSSA begins as (arXiv 2404.02948): the principal singular values and vectors of
//! the weight that it adapts.
//!
//! They are found by subspace iteration from a random start, with a Chebyshev polynomial for each
//! round's filter (Zhou and Saad 2007), so that the weight is only ever multiplied: in its file's
//! format, by the CPU's kernels. The polynomial is small on the squares of the singular values that
//! are not followed, and grows fast behind them, so that a spectrum without a visible gap, as
//! trained weights have it, takes 4 to 10 rounds.

use bft_core::cpu::{WeightRef, linear_nn, linear_nt};
use bft_formats::Tensor;
use nalgebra::{DMatrix, DVector, SVD};

use crate::error::TrainError;

/// Relative error of the sum of the wanted terms at which the rounds end; they end earlier where a
/// round no longer halves the error, for the products' f32 holds no more.
const TOLERANCE: f64 = 1e-6;
/// An error that may be all that f32 leaves: a larger one is that of a round that has only begun.
const STALLED: f64 = 1e-4;
/// Rounds at most: more are needed where more values than are followed are all but equal, and which
/// of their vectors are taken then matters as little.
const ROUNDS: usize = 20;
/// Steps of the small decomposition at most, a direction; it takes 2 or 3.
const ITERATIONS: usize = 100;
/// Directions that are followed beside the wanted ones, at least.
const SPARE: usize = 8;
/// Degree of the polynomial, at most.
const DEGREE: i32 = 6;
/// How much a filter may grow the first direction beside those that are not followed: an f32 that
/// holds a little of it must still hold the others.
const GROWTH: f64 = 1e12;

/// The principal part of a matrix `[out, in]`: the sum of σ·u·vᵀ over its `rank` largest singular
/// values.
#[derive(Debug)]
pub(crate) struct Principal {
    /// `[rank]` σ, falling.
    pub values: Vec<f64>,
    /// `[out, rank]`, columns u.
    pub left: DMatrix<f64>,
    /// `[in, rank]`, columns v.
    pub right: DMatrix<f64>,
}

/// The principal part of one matrix whose rows are those of `weights`, one after another; `rank` is
/// at most the shorter of its sides. `random` gives the numbers to start from.
///
/// # Errors
/// Where a file can no longer be read, or a weight holds what is no number.
pub(crate) fn principal(
    weights: &[&Tensor],
    rank: usize,
    mut random: impl FnMut() -> f32,
) -> Result<Principal, TrainError> {
    let bytes = weights.iter().map(|weight| weight.bytes()).collect::<Result<Vec<_>, _>>()?;
    let maps: Vec<WeightRef<'_>> = weights.iter().zip(&bytes).map(|(weight, b)| WeightRef::new(weight, b)).collect();
    let out: usize = maps.iter().map(|map| map.rows).sum();
    let input = maps.first().map_or(0, |map| map.cols);
    let width = (rank + SPARE.max(rank / 2)).min(out.min(input));
    let refused = || {
        let names = weights.iter().map(|weight| weight.name.as_str()).collect::<Vec<_>>().join(", ");
        let problem = "holds numbers that are broken or too large, so that PiSSA finds no singular values";
        TrainError::Engine(format!("{names} {problem}: use another file of the model, or --lora-init default").into())
    };
    let mut start = DMatrix::from_fn(input, width, |_, _| f64::from(random()));
    let mut last = f64::INFINITY;
    for round in 1.. {
        let basis = start.qr().q();
        let product = times(&maps, &basis);
        if product.iter().any(|value| !value.is_finite()) {
            return Err(refused());
        }
        // Within the span of the basis the decomposition is exact: W·Q = P·R, and R is small.
        let (left, triangle) = product.qr().unpack();
        let small = SVD::try_new(triangle, true, true, f64::EPSILON, ITERATIONS * width);
        let Some((values, u, vt)) = small.and_then(|small| Some((small.singular_values, small.u?, small.v_t?))) else {
            return Err(refused());
        };
        let (left, right) = (left * u, basis * vt.transpose());
        let back = transposed_times(&maps, &left);
        let next = if width < out.min(input) { values[width - 1].powi(2) } else { 0.0 };
        let error = error(&values, &right, &back, rank, next);
        if round == ROUNDS || error < TOLERANCE || error > last / 2.0 && error < STALLED {
            return Ok(Principal {
                values: values.iter().take(rank).copied().collect(),
                left: left.columns(0, rank).into_owned(),
                right: right.columns(0, rank).into_owned(),
            });
        }
        last = error;
        // Where as many are followed as there are, Wᵀ·U holds nothing else.
        start = if width < out.min(input) { filtered(&maps, &values, right, back) } else { back };
    }
    Err(refused())
}

/// The relative error of the sum of the first `rank` terms, from Wᵀ·U. A vector's residual r = Wᵀ·u
/// − σ·v is orthogonal to every direction that is followed, so that it turns v by r·σ/(σ² − τ²), with
/// τ the largest value that is not; `next`, the square of the smallest that is, is no smaller.
fn error(values: &DVector<f64>, right: &DMatrix<f64>, back: &DMatrix<f64>, rank: usize, next: f64) -> f64 {
    let (mut square, mut whole) = (0.0, 0.0);
    for (at, value) in values.iter().take(rank).enumerate().filter(|(_, value)| **value > 0.0) {
        let residual = (back.column(at) - right.column(at) * *value).norm_squared();
        if residual > 0.0 {
            square += residual * (value.powi(2) / (value.powi(2) - next)).powi(2);
        }
        whole += value.powi(2);
    }
    if square > 0.0 { (square / whole).sqrt() } else { 0.0 }
}

/// T(2·WᵀW/c − 1)·V `[in, k]` of the directions followed, with T a Chebyshev polynomial and c the
/// square of the smallest value followed; `back` is Wᵀ·U.
fn filtered(maps: &[WeightRef<'_>], values: &DVector<f64>, right: DMatrix<f64>, back: DMatrix<f64>) -> DMatrix<f64> {
    let (largest, last) = (values[0].powi(2), values[values.len() - 1].powi(2));
    // A matrix of fewer dimensions than are followed has values of 0.
    let cut = last.max(1e-6 * largest).max(f64::MIN_POSITIVE);
    let degree = (2..=DEGREE).take_while(|degree| (2.0 * largest / cut).powi(*degree) < GROWTH).last().unwrap_or(1);
    // WᵀW·v = σ·Wᵀ·u
    let mut next = back * DMatrix::from_diagonal(&(values * (2.0 / cut))) - &right;
    let mut before = right;
    for _ in 1..degree {
        let product = transposed_times(maps, &times(maps, &next));
        let after = (product * (2.0 / cut) - &next) * 2.0 - before;
        before = std::mem::replace(&mut next, after);
    }
    next
}

/// W·X `[out, k]` of X `[in, k]`, whose columns are rows to the kernels.
fn times(maps: &[WeightRef<'_>], x: &DMatrix<f64>) -> DMatrix<f64> {
    let (columns, x) = (x.ncols(), single(x.iter()));
    let mut product = DMatrix::zeros(maps.iter().map(|map| map.rows).sum(), columns);
    let mut first = 0;
    for map in maps {
        let mut y = vec![0.0f32; columns * map.rows];
        linear_nt(&x, *map, &mut y, columns, 1.0, 0.0);
        let y = DMatrix::from_iterator(map.rows, columns, y.into_iter().map(f64::from));
        product.rows_mut(first, map.rows).copy_from(&y);
        first += map.rows;
    }
    product
}

/// Wᵀ·Y `[in, k]` of Y `[out, k]`.
fn transposed_times(maps: &[WeightRef<'_>], y: &DMatrix<f64>) -> DMatrix<f64> {
    let (columns, input) = (y.ncols(), maps.first().map_or(0, |map| map.cols));
    let mut product = vec![0.0f32; columns * input];
    let mut first = 0;
    for map in maps {
        linear_nn(&single(y.rows(first, map.rows).iter()), *map, &mut product, columns, 1.0, 1.0);
        first += map.rows;
    }
    DMatrix::from_iterator(input, columns, product.into_iter().map(f64::from))
}

fn single<'a>(values: impl Iterator<Item = &'a f64>) -> Vec<f32> {
    values.map(|value| *value as f32).collect()
}

#[cfg(test)]
mod tests {
    use bft_formats::Random;

    use super::*;

    /// U·diag(values)·Vᵀ `[rows, cols]` with random U and V.
    fn matrix(rows: usize, cols: usize, values: &[f64]) -> DMatrix<f64> {
        let mut random = Random::new(3);
        let mut basis = |side| DMatrix::from_fn(side, values.len(), |_, _| random.normal()).qr().q();
        let (u, v) = (basis(rows), basis(cols));
        u * DMatrix::from_diagonal(&DVector::from_column_slice(values)) * v.transpose()
    }

    fn tensor(name: &str, matrix: &DMatrix<f64>) -> Tensor {
        let (rows, cols) = matrix.shape();
        Tensor::from_f32(name, vec![rows, cols], &single(matrix.transpose().iter())).unwrap()
    }

    fn product(found: &Principal) -> DMatrix<f64> {
        let values = DMatrix::from_diagonal(&DVector::from_column_slice(&found.values));
        &found.left * values * found.right.transpose()
    }

    fn find(weights: &[&Tensor], rank: usize) -> Principal {
        let mut random = Random::new(9);
        principal(weights, rank, || random.symmetric()).unwrap()
    }

    #[test]
    fn the_product_is_that_of_the_exact_decomposition() {
        // A gap behind the wanted ones, values that fall as those of trained weights do, and as
        // many wanted ones as there are.
        let stair = |i: i32| if i < 6 { 5.0 - 0.5 * f64::from(i) } else { 1.5 / (1.0 + 0.02 * f64::from(i)) };
        let stairs: Vec<f64> = (0..96).map(stair).collect();
        let slope: Vec<f64> = (0..96).map(|i| 4.0 / (1.0 + i as f64).sqrt()).collect();
        for (values, rank) in [(&stairs, 6), (&slope, 16), (&slope, 1), (&slope, 96)] {
            for (rows, cols) in [(96, 160), (200, 96)] {
                let exact = matrix(rows, cols, values);
                let weight = tensor("w", &exact);
                let svd = SVD::new(exact, true, true);
                let exact = Principal {
                    values: svd.singular_values.iter().take(rank).copied().collect(),
                    left: svd.u.unwrap().columns(0, rank).into_owned(),
                    right: svd.v_t.unwrap().transpose().columns(0, rank).into_owned(),
                };
                let expected = product(&exact);
                let error = (product(&find(&[&weight], rank)) - &expected).norm() / expected.norm();
                assert!(error < 1e-4, "rank {rank} of {rows} × {cols}: {error:.1e}");
            }
        }
    }

    #[test]
    fn maps_of_one_module_are_one_matrix() {
        let whole = matrix(96, 64, &[3.0, 2.0, 1.0, 0.5]);
        let parts = [(0, 32), (32, 4), (36, 60)].map(|(from, rows)| tensor("w", &whole.rows(from, rows).into_owned()));
        let (one, three) = (find(&[&tensor("w", &whole)], 2), find(&parts.each_ref(), 2));
        assert!((product(&one) - product(&three)).norm() < 1e-5 * product(&one).norm());
    }

    #[test]
    fn a_weight_of_fewer_dimensions_or_none_is_decomposed_too() {
        let found = find(&[&tensor("w", &matrix(32, 48, &[2.0, 1.0]))], 4);
        assert!((found.values[0] - 2.0).abs() < 1e-5 && (found.values[1] - 1.0).abs() < 1e-5, "{:?}", found.values);
        assert!(found.values[2] < 1e-5 && found.left.iter().chain(found.right.iter()).all(|value| value.is_finite()));
        let found = find(&[&tensor("w", &DMatrix::zeros(32, 48))], 4);
        assert!(found.values.iter().all(|value| *value == 0.0), "{:?}", found.values);
        assert!(found.left.iter().chain(found.right.iter()).all(|value| value.is_finite()));
    }

    #[test]
    fn broken_numbers_are_refused_by_name() {
        for broken in [f64::NAN, f64::INFINITY] {
            let mut weight = matrix(32, 48, &[2.0, 1.0]);
            weight[(5, 7)] = broken;
            let message = principal(&[&tensor("the.weight", &weight)], 4, || 0.5).unwrap_err().to_string();
            assert!(message.starts_with("the.weight holds numbers that are broken or too large"), "{message}");
        }
    }
}
