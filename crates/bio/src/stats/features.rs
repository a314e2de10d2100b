//! Rows of numbers, dense or sparse, behind the two products that fitting needs.

/// A matrix of rows.
#[derive(Debug, Clone)]
pub enum Features {
    /// `[rows, width]`, row-major.
    Dense {
        /// Columns.
        width: usize,
        /// The values.
        values: Vec<f32>,
    },
    /// Columns and values of each row, columns ascending.
    Sparse {
        /// Columns.
        width: usize,
        /// The rows.
        rows: Vec<Vec<(u32, f32)>>,
    },
}

impl Features {
    /// Columns.
    pub fn width(&self) -> usize {
        match self {
            Self::Dense { width, .. } | Self::Sparse { width, .. } => *width,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense { width, values } => values.len() / (*width).max(1),
            Self::Sparse { rows, .. } => rows.len(),
        }
    }

    fn dense_row(width: usize, values: &[f32], row: usize) -> &[f32] {
        &values[row * width..(row + 1) * width]
    }

    /// Product of a row with a weight for each column.
    pub fn dot(&self, row: usize, weights: &[f64]) -> f64 {
        match self {
            Self::Dense { width, values } => Self::dense_row(*width, values, row)
                .iter()
                .zip(weights)
                .map(|(value, weight)| f64::from(*value) * weight)
                .sum(),
            Self::Sparse { rows, .. } => {
                rows[row].iter().map(|(column, value)| f64::from(*value) * weights[*column as usize]).sum()
            }
        }
    }

    /// Adds a multiple of a row to `sums`.
    pub fn add(&self, row: usize, times: f64, sums: &mut [f64]) {
        match self {
            Self::Dense { width, values } => {
                let row = Self::dense_row(*width, values, row);
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += times * f64::from(*value);
                }
            }
            Self::Sparse { rows, .. } => {
                for (column, value) in &rows[row] {
                    sums[*column as usize] += times * f64::from(*value);
                }
            }
        }
    }

    /// Product of two rows.
    pub fn inner(&self, a: usize, b: usize) -> f64 {
        match self {
            Self::Dense { width, values } => {
                let (a, b) = (Self::dense_row(*width, values, a), Self::dense_row(*width, values, b));
                a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            }
            Self::Sparse { rows, .. } => {
                let mut sum = 0.0;
                merge(&rows[a], &rows[b], |_, x, y| sum += f64::from(x) * f64::from(y));
                sum
            }
        }
    }

    /// Features of pairs of rows: the product a·b, then the distance |a − b|, element by element.
    pub fn pairs(&self, pairs: &[(usize, usize)]) -> Self {
        match self {
            Self::Dense { width, values } => {
                let mut out = Vec::with_capacity(pairs.len() * width * 2);
                for (a, b) in pairs {
                    let a = Self::dense_row(*width, values, *a);
                    let b = Self::dense_row(*width, values, *b);
                    out.extend(a.iter().zip(b).map(|(x, y)| x * y));
                    out.extend(a.iter().zip(b).map(|(x, y)| (x - y).abs()));
                }
                Self::Dense { width: width * 2, values: out }
            }
            Self::Sparse { width, rows } => {
                let offset = *width as u32;
                let pair = |(a, b): &(usize, usize)| {
                    let (mut products, mut distances) = (Vec::new(), Vec::new());
                    merge(&rows[*a], &rows[*b], |column, x, y| {
                        if x * y != 0.0 {
                            products.push((column, x * y));
                        }
                        if x != y {
                            distances.push((column + offset, (x - y).abs()));
                        }
                    });
                    products.extend(distances);
                    products
                };
                Self::Sparse { width: width * 2, rows: pairs.iter().map(pair).collect() }
            }
        }
    }

    /// These rows alone, in this order.
    pub fn select(&self, wanted: &[usize]) -> Self {
        match self {
            Self::Dense { width, values } => Self::Dense {
                width: *width,
                values: wanted.iter().flat_map(|row| Self::dense_row(*width, values, *row)).copied().collect(),
            },
            Self::Sparse { width, rows } => {
                Self::Sparse { width: *width, rows: wanted.iter().map(|row| rows[*row].clone()).collect() }
            }
        }
    }

    /// Columns brought to a mean of 0 and a deviation of 1 over these rows; sparse rows stay as
    /// they are.
    pub fn scaled(&self, over: &[usize]) -> Self {
        let Self::Dense { width, values } = self else {
            return self.clone();
        };
        let (mut sums, mut squares) = (vec![0.0; *width], vec![0.0; *width]);
        for row in over {
            for (column, value) in Self::dense_row(*width, values, *row).iter().enumerate() {
                sums[column] += f64::from(*value);
                squares[column] += f64::from(*value).powi(2);
            }
        }
        let count = over.len().max(1) as f64;
        let scale: Vec<(f64, f64)> = sums
            .iter()
            .zip(&squares)
            .map(|(sum, square)| {
                let mean = sum / count;
                (mean, (square / count - mean * mean).max(0.0).sqrt().max(1e-12))
            })
            .collect();
        let column = |(place, value): (usize, &f32)| {
            let (mean, deviation) = scale[place % width];
            ((f64::from(*value) - mean) / deviation) as f32
        };
        Self::Dense { width: *width, values: values.iter().enumerate().map(column).collect() }
    }

    /// Sums of rows, one for each group.
    pub fn sums(&self, groups: &[Vec<usize>]) -> Self {
        match self {
            Self::Dense { width, values } => {
                let mut out = vec![0.0; groups.len() * width];
                for (group, sum) in groups.iter().zip(out.chunks_exact_mut((*width).max(1))) {
                    for row in group {
                        let row = Self::dense_row(*width, values, *row);
                        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    }
                }
                Self::Dense { width: *width, values: out }
            }
            Self::Sparse { width, rows } => {
                let sum = |group: &Vec<usize>| {
                    let mut sum = std::collections::BTreeMap::new();
                    for (column, value) in group.iter().flat_map(|row| &rows[*row]) {
                        *sum.entry(*column).or_insert(0.0) += value;
                    }
                    sum.into_iter().collect()
                };
                Self::Sparse { width: *width, rows: groups.iter().map(sum).collect() }
            }
        }
    }

    /// Scales every row to length 1; rows of zeros stay.
    pub fn normalized(mut self) -> Self {
        let scale = |square: f64| {
            if square > 0.0 { (1.0 / square.sqrt()) as f32 } else { 1.0 }
        };
        match &mut self {
            Self::Dense { width, values } => {
                for row in values.chunks_exact_mut((*width).max(1)) {
                    let by = scale(row.iter().map(|v| f64::from(*v).powi(2)).sum());
                    row.iter_mut().for_each(|value| *value *= by);
                }
            }
            Self::Sparse { rows, .. } => {
                for row in rows {
                    let by = scale(row.iter().map(|(_, v)| f64::from(*v).powi(2)).sum());
                    row.iter_mut().for_each(|(_, value)| *value *= by);
                }
            }
        }
        self
    }
}

/// Visits the columns of two sparse rows, with zeros where one has none.
fn merge(a: &[(u32, f32)], b: &[(u32, f32)], mut visit: impl FnMut(u32, f32, f32)) {
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let left = a.get(i).map_or(u32::MAX, |it| it.0);
        let right = b.get(j).map_or(u32::MAX, |it| it.0);
        let column = left.min(right);
        let x = if left == column { a[i].1 } else { 0.0 };
        let y = if right == column { b[j].1 } else { 0.0 };
        i += usize::from(left == column);
        j += usize::from(right == column);
        visit(column, x, y);
    }
}
