//! Ridge regression in its dual form: all that vectors contribute is their inner products.

use nalgebra::{DMatrix, DVector};

use super::features::Features;

/// How much each training row counts in the prediction for each test row: a prediction is ȳ + Σᵢ wᵢ
/// (yᵢ − ȳ).
///
/// Equals scikit-learn's `Ridge(alpha)` with an intercept: vectors are centred on the training
/// rows' mean. The result is `[test, train]`.
///
/// # Errors
/// In words, where the system cannot be solved (vectors that are not finite).
pub fn weights(vectors: &Features, train: &[usize], test: &[usize], alpha: f64) -> Result<DMatrix<f64>, String> {
    let n = train.len();
    let kernel = DMatrix::from_fn(n, n, |i, j| vectors.inner(train[i], train[j]));
    let cross = DMatrix::from_fn(test.len(), n, |i, j| vectors.inner(test[i], train[j]));
    let columns = DVector::from_fn(n, |j, _| kernel.column(j).mean());
    let all = columns.mean();
    let centred = DMatrix::from_fn(n, n, |i, j| kernel[(i, j)] - columns[i] - columns[j] + all);
    let cross = DMatrix::from_fn(test.len(), n, |i, j| cross[(i, j)] - cross.row(i).mean() - columns[j] + all);
    let regular = centred + DMatrix::identity(n, n) * alpha;
    let solver = regular.cholesky().ok_or("the vectors are not finite numbers, or alpha is 0")?;
    Ok(solver.solve(&cross.transpose()).transpose())
}

/// Predictions `[test, targets]` from targets `[train, targets]`.
pub fn predict(weights: &DMatrix<f64>, targets: &DMatrix<f64>) -> DMatrix<f64> {
    let mean = targets.row_mean();
    let mut centred = targets.clone();
    for mut row in centred.row_iter_mut() {
        row -= &mean;
    }
    let mut predicted = weights * centred;
    for mut row in predicted.row_iter_mut() {
        row += &mean;
    }
    predicted
}
