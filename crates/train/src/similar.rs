//! Which vectors are alike: a map of the first two principal components, and nearest neighbours by cosine.
//!
//! Both look at centred vectors: what all texts share, such as the direction that every hidden state has a large part
//! in, says nothing about which are alike.

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

/// Rounds of the power iteration at most; a map for the eye needs no more digits.
const ROUNDS: usize = 200;

/// The first two principal components of centred rows `[rows, width]`.
///
/// Found by power iteration on the covariance, which is never formed; the second stays at right angles to the first.
/// The larger entry of each direction is positive, so that a map does not flip from run to run.
pub fn map(centred: &[f64], width: usize) -> Map {
    let rows: Vec<&[f64]> = centred.chunks_exact(width.max(1)).collect();
    let total: f64 = centred.iter().map(|x| x * x).sum();
    let mut points = vec![0.0; rows.len() * 2];
    let mut explained = [0.0; 2];
    let mut found: Vec<Vec<f64>> = Vec::new();
    for component in 0..2 {
        let (direction, variance) = strongest(&rows, width, &found);
        if total > 0.0 {
            explained[component] = variance / total;
        }
        for (row, values) in rows.iter().enumerate() {
            points[row * 2 + component] = dot(values, &direction) as f32;
        }
        found.push(direction);
    }
    Map { points, explained }
}

/// The direction of unit length, at right angles to `others`, along which the rows vary most; and how much.
fn strongest(rows: &[&[f64]], width: usize, others: &[Vec<f64>]) -> (Vec<f64>, f64) {
    let deflate = |v: &mut Vec<f64>| {
        for other in others {
            let along = dot(v, other);
            v.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
        }
    };
    let scale = |v: &mut Vec<f64>| {
        let norm = dot(v, v).sqrt();
        if norm > 0.0 {
            v.iter_mut().for_each(|v| *v /= norm);
        }
        norm
    };
    // The longest row is never at right angles to all that varies.
    let longest = |row: &&&[f64]| dot(row, row);
    let start = rows.iter().max_by(|a, b| {
        let part = |row: &&&[f64]| {
            let mut row = row.to_vec();
            deflate(&mut row);
            longest(&&row.as_slice())
        };
        part(a).total_cmp(&part(b))
    });
    let mut v = start.map_or_else(|| vec![0.0; width], |row| row.to_vec());
    deflate(&mut v);
    scale(&mut v);
    let mut variance = 0.0;
    for _ in 0..ROUNDS {
        let mut next = vec![0.0; width];
        for row in rows {
            let along = dot(row, &v);
            next.iter_mut().zip(*row).for_each(|(next, x)| *next += along * x);
        }
        deflate(&mut next);
        variance = scale(&mut next);
        let moved: f64 = v.iter().zip(&next).map(|(a, b)| (a - b).powi(2)).sum();
        v = next;
        if moved < 1e-18 {
            break;
        }
    }
    let largest = v.iter().fold(0.0f64, |max, x| if x.abs() > max.abs() { *x } else { max });
    if largest < 0.0 {
        v.iter_mut().for_each(|x| *x = -*x);
    }
    (v, variance)
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

    /// Points around (10, 10, 10): spread 3 along (1, 1, 0)/√2, 1 along (1, −1, 0)/√2, none along z.
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
