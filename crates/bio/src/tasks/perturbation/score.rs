//! Errors and correlations of predicted changes, by condition.

use std::collections::BTreeMap;

use nalgebra::DMatrix;

use super::folds::{Fold, Kind};
use crate::stats::bootstrap::Estimate;
use crate::stats::correlation::pearson;
use crate::tasks::Options;

/// Readouts that count as those that changed most.
const TOP: usize = 20;

/// What was found for one condition: MSE, MSE top, Pearson, Pearson top.
type Scores = [Option<f64>; 4];

/// Scores of one model, by kind of test condition.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    scores: BTreeMap<(Kind, usize), Vec<Scores>>,
}

/// A table's numbers.
#[derive(Debug)]
pub struct Metrics {
    /// Conditions tested.
    pub conditions: usize,
    /// MSE over the train mean's, MSE, MSE of the top, Pearson, Pearson of the top.
    pub values: [Option<Estimate>; 5],
}

impl Tally {
    /// Adds a fold's predictions.
    pub fn add(&mut self, fold: &Fold, truth: &DMatrix<f64>, predicted: &DMatrix<f64>) {
        for (row, (condition, kind)) in fold.test.iter().enumerate() {
            let truth: Vec<f64> = truth.row(*condition).iter().copied().collect();
            let found: Vec<f64> = predicted.row(row).iter().copied().collect();
            self.scores.entry((*kind, *condition)).or_default().push(scores(&truth, &found));
        }
    }

    /// Means over conditions with intervals; a condition tested in two folds counts once, with its
    /// mean.
    pub fn metrics(&self, kind: Kind, train_mean: &Self, options: Options) -> Option<Metrics> {
        let of = |tally: &Self, which: usize| -> Vec<Option<f64>> {
            let conditions = tally.scores.iter().filter(|((k, _), _)| *k == kind);
            conditions
                .map(|(_, folds)| {
                    let known: Vec<f64> = folds.iter().filter_map(|scores| scores[which]).collect();
                    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
                })
                .collect()
        };
        let errors = of(self, 0);
        if errors.is_empty() {
            return None;
        }
        let base = of(train_mean, 0);
        let ratio = options.interval(errors.len(), |counts| {
            let sum = |values: &[Option<f64>]| -> f64 {
                counts.iter().zip(values).map(|(count, value)| count * value.unwrap_or(0.0)).sum()
            };
            let below = sum(&base);
            (below > 0.0).then(|| sum(&errors) / below)
        });
        let average = |which| {
            let known: Vec<f64> = of(self, which).into_iter().flatten().collect();
            options.mean(&known)
        };
        Some(Metrics { conditions: errors.len(), values: [ratio, average(0), average(1), average(2), average(3)] })
    }
}

fn scores(truth: &[f64], found: &[f64]) -> Scores {
    let mut order: Vec<usize> = (0..truth.len()).collect();
    order.sort_by(|a, b| truth[*b].abs().total_cmp(&truth[*a].abs()));
    order.truncate(TOP);
    let pick = |values: &[f64]| -> Vec<f64> { order.iter().map(|index| values[*index]).collect() };
    let (top_truth, top_found) = (pick(truth), pick(found));
    [Some(mse(truth, found)), Some(mse(&top_truth, &top_found)), pearson(truth, found), pearson(&top_truth, &top_found)]
}

fn mse(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / a.len().max(1) as f64
}
