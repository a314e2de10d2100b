//! Nearest neighbours by cosine.

/// Named vectors of one length.
#[derive(Debug, Default)]
pub struct Vectors {
    /// Name of each row.
    pub names: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<f32>>,
}

impl Vectors {
    /// Subtracts the mean row and scales each row to length 1. Hidden states of a language model
    /// share one large direction; without it, cosines tell the rows apart.
    pub fn centre(&mut self) {
        let width = self.rows.first().map_or(0, Vec::len);
        let mut mean = vec![0.0f64; width];
        for row in &self.rows {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += f64::from(*value) / self.rows.len() as f64;
            }
        }
        for row in &mut self.rows {
            for (value, mean) in row.iter_mut().zip(&mean) {
                *value -= *mean as f32;
            }
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            for value in row {
                *value /= length.max(1e-12) as f32;
            }
        }
    }

    /// The `count` rows nearest to the row called `name`, with their cosines; `None` if there is no
    /// such row. Rows are taken as centred.
    pub fn nearest(&self, name: &str, count: usize) -> Option<Vec<(&str, f32)>> {
        let at = self.names.iter().position(|known| known == name)?;
        let mut others: Vec<(&str, f32)> = (0..self.rows.len())
            .filter(|other| *other != at)
            .map(|other| (self.names[other].as_str(), dot(&self.rows[at], &self.rows[other])))
            .collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        others.truncate(count);
        Some(others)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_that_differ_alike_from_the_mean() {
        let mut vectors = Vectors {
            names: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
            // All share a large first component.
            rows: vec![vec![9.0, 1.0], vec![9.0, 0.8], vec![9.0, -1.0], vec![9.0, -0.8]],
        };
        vectors.centre();
        let near = vectors.nearest("a", 2).expect("a is there");
        assert_eq!(near[0].0, "b");
        assert!((near[0].1 - 1.0).abs() < 1e-5, "{near:?}");
        assert!(near[1].1 < -0.9, "{near:?}");
        assert!(vectors.nearest("z", 2).is_none());
    }
}
