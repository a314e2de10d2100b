//! Principal components.

use nalgebra::{DMatrix, SymmetricEigen};

/// Axes and mean of a fitted PCA.
#[derive(Debug, Clone)]
pub struct Pca {
    /// Mean of every column, `[1, columns]`.
    pub mean: DMatrix<f64>,
    /// Orthonormal axes, `[columns, components]`, by falling variance.
    pub axes: DMatrix<f64>,
    /// Variance along each axis (divisor n − 1).
    pub variance: Vec<f64>,
}

impl Pca {
    /// The first components of rows; fewer where the data has no more.
    pub fn fit(rows: &DMatrix<f64>, components: usize) -> Self {
        if rows.is_empty() {
            let columns = rows.ncols();
            return Self { mean: DMatrix::zeros(1, columns), axes: DMatrix::zeros(columns, 0), variance: Vec::new() };
        }
        let mean = DMatrix::from_fn(1, rows.ncols(), |_, column| rows.column(column).mean());
        let centred = centre(rows, &mean);
        // The eigenvectors of the smaller of XᵀX and XXᵀ give those of the other.
        let tall = rows.nrows() >= rows.ncols();
        let gram = if tall { centred.tr_mul(&centred) } else { &centred * centred.transpose() };
        let eigen = SymmetricEigen::new(gram);
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let largest = order.first().map_or(0.0, |first| eigen.eigenvalues[*first]);
        order.truncate(components);
        order.retain(|index| eigen.eigenvalues[*index] > 1e-10 * largest.max(1e-300));
        let chosen = DMatrix::from_fn(eigen.eigenvectors.nrows(), order.len(), |row, column| {
            eigen.eigenvectors[(row, order[column])]
        });
        let mut axes = if tall { chosen } else { centred.tr_mul(&chosen) };
        for mut axis in axes.column_iter_mut() {
            let norm = axis.norm();
            // The sign is free; the largest entry is made positive, so that runs agree.
            let sign = axis.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
            axis /= norm * sign.signum();
        }
        let divisor = (rows.nrows().max(2) - 1) as f64;
        let variance = order.iter().map(|index| eigen.eigenvalues[*index] / divisor).collect();
        Self { mean, axes, variance }
    }

    /// Coordinates of rows, `[rows, components]`.
    pub fn project(&self, rows: &DMatrix<f64>) -> DMatrix<f64> {
        centre(rows, &self.mean) * &self.axes
    }
}

fn centre(rows: &DMatrix<f64>, mean: &DMatrix<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(rows.nrows(), rows.ncols(), |i, j| rows[(i, j)] - mean[(0, j)])
}
