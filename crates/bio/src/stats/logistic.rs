//! Logistic regression with an L2 penalty: min ½‖w‖² + C Σ log(1 + exp(−y(w·x + b))), the bias
//! unpenalised.
//!
//! Truncated Newton steps: each solves H d = −g by conjugate gradients, with products alone, so
//! that rows may be sparse.

use rayon::prelude::*;

use super::features::Features;

/// A fitted model.
#[derive(Debug, Clone)]
pub struct Logistic {
    /// A weight for each column.
    pub weights: Vec<f64>,
    /// The bias.
    pub bias: f64,
}

/// Rows that one task of the thread pool takes; fixed, so that sums do not depend on the number of
/// threads.
const CHUNK: usize = 512;

impl Logistic {
    /// Fits until the gradient is 10⁻⁶ of what it was at the start.
    pub fn fit(rows: &Features, labels: &[bool], c: f64) -> Self {
        Self::fit_weighted(rows, labels, &vec![c; labels.len()])
    }

    /// The same with one C a row.
    pub fn fit_weighted(rows: &Features, labels: &[bool], c: &[f64]) -> Self {
        let width = rows.width();
        let mut parameters = vec![0.0; width + 1];
        let mut value = objective(rows, labels, c, &parameters);
        let mut first = None;
        for _ in 0..100 {
            let (gradient, curvature) = gradient(rows, labels, c, &parameters);
            let norm = dot(&gradient, &gradient).sqrt();
            let first = *first.get_or_insert(norm);
            if norm <= 1e-6 * first.max(1e-12) {
                break;
            }
            let tolerance = norm * (norm / first).sqrt().min(0.5);
            let step = conjugate_gradients(rows, &curvature, &gradient, tolerance);
            let slope = dot(&gradient, &step);
            let mut length = 1.0;
            let moved = loop {
                let next: Vec<f64> = parameters.iter().zip(&step).map(|(p, s)| p + length * s).collect();
                let at_next = objective(rows, labels, c, &next);
                if at_next <= value + 1e-4 * length * slope {
                    (parameters, value) = (next, at_next);
                    break true;
                }
                length /= 2.0;
                if length < 1e-10 {
                    break false;
                }
            };
            if !moved {
                break;
            }
        }
        let bias = parameters.pop().unwrap_or(0.0);
        Self { weights: parameters, bias }
    }

    /// Log-odds of every row.
    pub fn scores(&self, rows: &Features) -> Vec<f64> {
        (0..rows.rows()).into_par_iter().map(|row| rows.dot(row, &self.weights) + self.bias).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// log(1 + exp(x)) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn objective(rows: &Features, labels: &[bool], c: &[f64], parameters: &[f64]) -> f64 {
    let (weights, bias) = parameters.split_at(rows.width());
    let losses: Vec<f64> = (0..labels.len())
        .into_par_iter()
        .map(|row| {
            let margin = rows.dot(row, weights) + bias[0];
            c[row] * softplus(if labels[row] { -margin } else { margin })
        })
        .collect();
    losses.iter().sum::<f64>() + dot(weights, weights) / 2.0
}

/// Gradient, and C p (1 − p) of every row.
fn gradient(rows: &Features, labels: &[bool], c: &[f64], parameters: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (weights, bias) = parameters.split_at(rows.width());
    let chances: Vec<f64> =
        (0..labels.len()).into_par_iter().map(|row| sigmoid(rows.dot(row, weights) + bias[0])).collect();
    let errors: Vec<f64> = (0..labels.len()).map(|row| c[row] * (chances[row] - f64::from(labels[row]))).collect();
    let mut gradient = transposed(rows, &errors);
    for (sum, weight) in gradient.iter_mut().zip(weights) {
        *sum += weight;
    }
    let curvature = (0..labels.len()).map(|row| c[row] * chances[row] * (1.0 - chances[row])).collect();
    (gradient, curvature)
}

/// Xᵀ v, with Σ v for the bias at its end.
fn transposed(rows: &Features, v: &[f64]) -> Vec<f64> {
    let width = rows.width();
    let parts: Vec<Vec<f64>> = v
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, values)| {
            let mut sums = vec![0.0; width + 1];
            for (offset, value) in values.iter().enumerate() {
                rows.add(chunk * CHUNK + offset, *value, &mut sums[..width]);
                sums[width] += value;
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; width + 1];
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sums
}

/// Solves H d = −g to the tolerance, H = Xᵀ diag(curvature) X + I without the bias's 1.
fn conjugate_gradients(rows: &Features, curvature: &[f64], gradient: &[f64], tolerance: f64) -> Vec<f64> {
    let width = rows.width();
    let mut step = vec![0.0; gradient.len()];
    let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut direction = residual.clone();
    let mut square = dot(&residual, &residual);
    for _ in 0..200 {
        if square.sqrt() <= tolerance {
            break;
        }
        let (weights, bias) = direction.split_at(width);
        let products: Vec<f64> = (0..curvature.len())
            .into_par_iter()
            .map(|row| curvature[row] * (rows.dot(row, weights) + bias[0]))
            .collect();
        let mut image = transposed(rows, &products);
        for (sum, value) in image.iter_mut().zip(weights) {
            *sum += value;
        }
        let along = dot(&direction, &image);
        if along <= 0.0 {
            break;
        }
        let length = square / along;
        for i in 0..step.len() {
            step[i] += length * direction[i];
            residual[i] -= length * image[i];
        }
        let next = dot(&residual, &residual);
        for i in 0..direction.len() {
            direction[i] = residual[i] + next / square * direction[i];
        }
        square = next;
    }
    step
}
