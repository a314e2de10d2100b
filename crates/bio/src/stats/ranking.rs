//! How well scores rank positives above negatives; every example may carry a weight.

/// Examples in ascending order of their scores, ties side by side, sorted once for many weightings.
#[derive(Debug)]
pub struct Ranking {
    order: Vec<usize>,
    /// Where each group of equal scores ends in `order`.
    ends: Vec<usize>,
    labels: Vec<bool>,
}

impl Ranking {
    /// Sorts examples by score.
    pub fn new(scores: &[f64], labels: &[bool]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let ends =
            (1..=order.len()).filter(|i| *i == order.len() || scores[order[*i]] != scores[order[i - 1]]).collect();
        Self { order, ends, labels: labels.to_vec() }
    }

    /// Weights of negatives and positives in each group of ties, ascending.
    fn groups<'r>(&'r self, weight: &'r dyn Fn(usize) -> f64) -> impl DoubleEndedIterator<Item = (f64, f64)> + 'r {
        (0..self.ends.len()).map(move |group| {
            let start = if group == 0 { 0 } else { self.ends[group - 1] };
            let mut sums = (0.0, 0.0);
            for example in &self.order[start..self.ends[group]] {
                let sum = if self.labels[*example] { &mut sums.1 } else { &mut sums.0 };
                *sum += weight(*example);
            }
            sums
        })
    }

    /// Area under the ROC curve: the chance that a positive outranks a negative, ties counting
    /// half. `None` where there are no positives or no negatives.
    pub fn auroc(&self, weight: &dyn Fn(usize) -> f64) -> Option<f64> {
        let (mut negatives, mut positives, mut area) = (0.0, 0.0, 0.0);
        for (negative, positive) in self.groups(weight) {
            area += positive * (negatives + negative / 2.0);
            negatives += negative;
            positives += positive;
        }
        (negatives > 0.0 && positives > 0.0).then(|| area / (negatives * positives))
    }

    /// Area under the precision-recall curve as average precision: Σ (Rₙ − Rₙ₋₁) Pₙ over distinct
    /// scores.
    pub fn average_precision(&self, weight: &dyn Fn(usize) -> f64) -> Option<f64> {
        let (mut found, mut taken, mut sum) = (0.0, 0.0, 0.0);
        for (negative, positive) in self.groups(weight).rev() {
            found += positive;
            taken += positive + negative;
            if taken > 0.0 {
                sum += positive * found / taken;
            }
        }
        (found > 0.0 && taken > found).then(|| sum / found)
    }
}

/// Area under the ROC curve, every example alike.
pub fn auroc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    Ranking::new(scores, labels).auroc(&|_| 1.0)
}

/// Average precision, every example alike.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Option<f64> {
    Ranking::new(scores, labels).average_precision(&|_| 1.0)
}

/// F1 of calling every score from `threshold` on positive; 0 where nothing is right.
pub fn f1(scores: &[f64], labels: &[bool], threshold: f64) -> f64 {
    let (mut right, mut called, mut positives) = (0.0, 0.0, 0.0);
    for (score, label) in scores.iter().zip(labels) {
        let call = *score >= threshold;
        right += f64::from(call && *label);
        called += f64::from(call);
        positives += f64::from(*label);
    }
    if right == 0.0 { 0.0 } else { 2.0 * right / (called + positives) }
}

/// The score from which calling positive gives the best F1 (the highest such score).
pub fn best_threshold(scores: &[f64], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let (mut right, mut best, mut at) = (0.0, -1.0, f64::INFINITY);
    for (called, example) in order.iter().enumerate() {
        right += f64::from(labels[*example]);
        let next = order.get(called + 1).map(|next| scores[*next]);
        if next == Some(scores[*example]) {
            continue;
        }
        let value = 2.0 * right / (called as f64 + 1.0 + positives);
        if value > best {
            (best, at) = (value, scores[*example]);
        }
    }
    at
}
