//! Which vectors are alike: a map of the first two principal components, and nearest neighbours by
//! cosine.
//!
//! Both look at centred vectors: what all texts share, such as the direction that every hidden
//! state has a large part in, says nothing about which are alike.

use nalgebra::DMatrix;

use crate::Pca;

/// Two principal components of some vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// `[rows, 2]` the coordinates of each vector.
    pub points: Vec<f32>,
    /// Share of the variance that each of the two explains.
    pub explained: [f64; 2],
}

/// Subtracts the mean of the rows of `vectors` `[rows, width]`.
pub fn centred(vectors: &[f32], width: usize) -> Vec<f64> {
    let rows = vectors.len() / width.max(1);
    let mut mean = vec![0.0; width];
    for row in vectors.chunks_exact(width.max(1)) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / rows as f64);
    }
    let values = vectors.iter().enumerate();
    values.map(|(i, x)| f64::from(*x) - mean[i % width]).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The first two principal components of centred rows `[rows, width]`.
///
/// The largest entry of each direction is positive, so that a map does not flip from run to run.
pub fn map(centred: &[f64], width: usize) -> Map {
    let rows = DMatrix::from_row_slice(centred.len() / width.max(1), width, centred);
    let pca = Pca::fit(&rows, 2);
    let projected = pca.project(&rows);
    let mut map = Map { points: vec![0.0; rows.nrows() * 2], explained: [0.0; 2] };
    let total = rows.norm_squared() / (rows.nrows().max(2) - 1) as f64;
    for (component, variance) in pca.variance.iter().enumerate() {
        map.explained[component] = variance / total;
        for (row, x) in projected.column(component).iter().enumerate() {
            map.points[row * 2 + component] = *x as f32;
        }
    }
    map
}

/// For each of the centred rows, the others by falling cosine, at most `count`: index and cosine.
pub fn neighbours(centred: &[f64], width: usize, count: usize) -> Vec<Vec<(usize, f64)>> {
    let rows: Vec<&[f64]> = centred.chunks_exact(width.max(1)).collect();
    let norms: Vec<f64> = rows.iter().map(|row| dot(row, row).sqrt()).collect();
    let of_row = |(i, row): (usize, &&[f64])| {
        let others = rows.iter().enumerate().filter(|(j, _)| *j != i);
        let mut others: Vec<(usize, f64)> = others
            .map(|(j, other)| {
                let norm = norms[i] * norms[j];
                (j, if norm > 0.0 { dot(row, other) / norm } else { 0.0 })
            })
            .collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        others.truncate(count);
        others
    };
    rows.iter().enumerate().map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points around (10, 10, 10): spread 3 along (1, 1, 0)/√2, 1 along (1, −1, 0)/√2, none along
    /// z.
    fn vectors() -> Vec<f32> {
        let root = 0.5f32.sqrt();
        [(3.0, 1.0), (-3.0, 1.0), (3.0, -1.0), (-3.0, -1.0)]
            .iter()
            .flat_map(|(a, b)| [10.0 + root * (a + b), 10.0 + root * (a - b), 10.0])
            .collect()
    }

    #[test]
    fn the_map_is_along_the_two_widest_directions() {
        let map = map(&centred(&vectors(), 3), 3);
        for (row, (a, b)) in [(3.0f32, 1.0f32), (-3.0, 1.0), (3.0, -1.0), (-3.0, -1.0)].into_iter().enumerate() {
            let (x, y) = (map.points[row * 2], map.points[row * 2 + 1]);
            assert!((x - a).abs() < 1e-4, "{map:?}");
            assert!((y.abs() - b.abs()).abs() < 1e-4, "{map:?}");
        }
        assert!((map.explained[0] - 0.9).abs() < 1e-6, "{map:?}");
        assert!((map.explained[1] - 0.1).abs() < 1e-6, "{map:?}");
    }

    #[test]
    fn neighbours_come_by_falling_cosine_of_centred_vectors() {
        let near = neighbours(&centred(&vectors(), 3), 3, 2);
        assert_eq!(near.len(), 4);
        // Row 0 and row 2 lie on the same side; row 3 lies opposite to row 0.
        assert_eq!(near[0][0].0, 2);
        assert!((near[0][0].1 - 0.8).abs() < 1e-6, "{near:?}");
        assert_eq!(near[0].len(), 2);
        let all = neighbours(&centred(&vectors(), 3), 3, 10);
        assert_eq!(all[0][2].0, 3);
        assert!((all[0][2].1 + 1.0).abs() < 1e-6);
    }

    #[test]
    fn alike_or_lonely_vectors_break_nothing() {
        for vectors in [vec![], vec![1.0, 2.0], vec![1.0, 2.0, 1.0, 2.0]] {
            let centred = centred(&vectors, 2);
            let map = map(&centred, 2);
            assert!(map.points.iter().all(|x| *x == 0.0));
            assert_eq!(map.explained, [0.0, 0.0]);
            for near in neighbours(&centred, 2, 10) {
                assert!(near.iter().all(|(_, cosine)| *cosine == 0.0));
            }
        }
    }
}
