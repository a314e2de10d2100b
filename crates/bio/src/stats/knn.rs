//! Nearest neighbours by cosine: the commonest label among k, the nearer label where counts tie.

use std::collections::HashMap;

use rayon::prelude::*;

use super::features::Features;

/// Labels of the test rows from their `k` nearest training rows. Rows must have length 1.
pub fn predict(rows: &Features, labels: &[usize], train: &[usize], test: &[usize], k: usize) -> Vec<usize> {
    test.par_iter()
        .map(|row| {
            let mut near: Vec<(f64, usize)> = train.iter().map(|other| (rows.inner(*row, *other), *other)).collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            near.truncate(k);
            let mut votes: HashMap<usize, (usize, f64)> = HashMap::new();
            for (similarity, other) in &near {
                let vote = votes.entry(labels[*other]).or_insert((0, f64::MIN));
                vote.0 += 1;
                vote.1 = vote.1.max(*similarity);
            }
            let best = votes.into_iter().max_by(|(label_a, a), (label_b, b)| {
                (a.0.cmp(&b.0)).then(a.1.total_cmp(&b.1)).then(label_b.cmp(label_a))
            });
            best.map_or(0, |(label, _)| label)
        })
        .collect()
}
