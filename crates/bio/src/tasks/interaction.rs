//! Do two genes interact? Logistic regression on features of a pair, genes of the test pairs unseen
//! in training.

mod split;

use bft_formats::Random;
use rayon::prelude::*;

use crate::data::genome::{GeneId, Genome};
use crate::data::pairs::{Pair, Pairs};
use crate::error::{BioError, Result};
use crate::genes::vectors::GeneVectors;
use crate::report::{Cell, Report};
use crate::stats::bootstrap::Estimate;
use crate::stats::logistic::Logistic;
use crate::stats::ranking::{Ranking, best_threshold, f1};

use super::shape::{Options, Task, in_all, kind};

pub use split::{PairSplit, negatives, split};

/// How much a test pair counts, by its number.
type Weight<'w> = &'w dyn Fn(usize) -> f64;

/// Penalty of the regression, scikit-learn's default.
const C: f64 = 1.0;
/// Share of genes that pairs are trained on.
const TRAIN_SHARE: f64 = 0.7;

/// Metrics of one way to score pairs.
#[derive(Debug, Clone, Copy)]
pub struct Scores {
    /// Area under the ROC curve.
    pub auroc: Option<Estimate>,
    /// Average precision.
    pub auprc: Option<Estimate>,
    /// F1 at the threshold that was best on validation pairs.
    pub f1: Option<Estimate>,
    /// AUROC of a regression on a+b, as GenePT combines two genes.
    pub sum: Option<Estimate>,
    /// AUROC of the vectors' cosine alone, nothing fitted.
    pub cosine: Option<Estimate>,
}

impl Task for Pairs {
    fn genes(&self) -> Vec<GeneId> {
        Pairs::genes(self)
    }

    /// Every set of vectors on the genes that all of them have.
    fn run(&self, genome: &Genome, sets: &[GeneVectors], options: Options) -> Result<Report> {
        let known = in_all(sets);
        let keep =
            |list: &[Pair]| -> Vec<Pair> { list.iter().copied().filter(|(a, b)| known(a) && known(b)).collect() };
        let usable = Pairs { positives: keep(&self.positives), negatives: keep(&self.negatives), notes: Vec::new() };
        let split = split(&usable, TRAIN_SHARE, options.seed);
        split.check()?;

        let mut report = Report::new(
            "Gene interaction",
            &["vectors", "kind", "AUROC", "AUPRC", "F1", "AUROC of a+b", "AUROC of cosine"],
        );
        report.say_input(&self.notes);
        let genes = Pairs::genes(self);
        let lost: Vec<&str> =
            genes.iter().filter(|gene| !known(gene)).map(|gene| genome.genes[*gene].symbol.as_str()).collect();
        if !lost.is_empty() {
            report.say(
                "genes without a vector in some row, left out of all rows",
                format!(
                    "{} of {} ({}…), with {} pairs",
                    lost.len(),
                    genes.len(),
                    lost[..lost.len().min(5)].join(", "),
                    self.positives.len() - usable.positives.len()
                ),
            );
        }
        split.describe(&mut report);
        report.say("model", format!("logistic regression (C = {C}) on a·b and |a−b| of vectors of length 1; beside it on GenePT's a+b, and the cosine with nothing fitted; popularity: the sum, nothing fitted"));
        options.describe(&mut report, "test genes", "every AUROC should be about 0.5");
        for set in sets {
            let scores =
                if set.features.width() == 1 { by_sum(set, &split, options) } else { fitted(set, &split, options)? };
            let mut row = vec![Cell::from(set.label.as_str()), kind(set.baseline)];
            row.extend([scores.auroc, scores.auprc, scores.f1, scores.sum, scores.cosine].map(Cell::from));
            report.rows.push(row);
        }
        Ok(report)
    }
}

fn rows(set: &GeneVectors, pairs: &[Pair]) -> Vec<(usize, usize)> {
    let row = |gene| set.row(gene).unwrap_or(0);
    pairs.iter().map(|(a, b)| (row(*a), row(*b))).collect()
}

fn by_sum(set: &GeneVectors, split: &PairSplit, options: Options) -> Scores {
    let score = |pairs: &[Pair]| -> Vec<f64> {
        rows(set, pairs).iter().map(|(a, b)| set.features.dot(*a, &[1.0]) + set.features.dot(*b, &[1.0])).collect()
    };
    let threshold = best_threshold(&score(&split.train), &split.train_labels);
    metrics(&score(&split.test), None, None, threshold, split, options)
}

fn fitted(set: &GeneVectors, split: &PairSplit, options: Options) -> Result<Scores> {
    let mut labels = split.train_labels.clone();
    let mut random = Random::stream(options.seed, "validation");
    if options.shuffle_labels {
        random.shuffle(&mut labels);
    }
    let train = set.features.pairs(&rows(set, &split.train));
    // The threshold comes from a fifth of the training pairs that a first fit has not seen.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    random.shuffle(&mut order);
    let (held, seen) = order.split_at(labels.len() / 5);
    let pick = |rows: &[usize]| -> Vec<bool> { rows.iter().map(|row| labels[*row]).collect() };
    let first = Logistic::fit(&train.select(seen), &pick(seen), C);
    let threshold = best_threshold(&first.scores(&train.select(held)), &pick(held));

    let model = Logistic::fit(&train, &labels, C);
    let test_rows = rows(set, &split.test);
    let scores = model.scores(&set.features.pairs(&test_rows));
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(BioError::data(format!("{}: the regression gave scores that are not finite", set.label)));
    }
    let cosine: Vec<f64> = test_rows.par_iter().map(|(a, b)| set.features.inner(*a, *b)).collect();
    let sums = |pairs: &[Pair]| {
        let groups: Vec<Vec<usize>> = rows(set, pairs).iter().map(|(a, b)| vec![*a, *b]).collect();
        set.features.sums(&groups)
    };
    let sum = Logistic::fit(&sums(&split.train), &labels, C).scores(&sums(&split.test));
    Ok(metrics(&scores, Some(&sum), Some(&cosine), threshold, split, options))
}

fn metrics(
    scores: &[f64],
    sum: Option<&[f64]>,
    cosine: Option<&[f64]>,
    threshold: f64,
    split: &PairSplit,
    options: Options,
) -> Scores {
    let labels = &split.test_labels;
    let weigh = |counts: &[f64], pair: usize| {
        let (a, b) = split.test_units[pair];
        counts[a] * counts[b]
    };
    let estimate = |statistic: &(dyn Fn(Weight<'_>) -> Option<f64> + Sync)| {
        options.interval(split.test_genes, |counts| statistic(&|pair| weigh(counts, pair)))
    };
    let ranking = Ranking::new(scores, labels);
    let calls: Vec<bool> = scores.iter().map(|score| *score >= threshold).collect();
    let weighted_f1 = |weight: &dyn Fn(usize) -> f64| {
        let (mut right, mut called, mut positives) = (0.0, 0.0, 0.0);
        for (pair, call) in calls.iter().enumerate() {
            let weight = weight(pair);
            right += weight * f64::from(*call && labels[pair]);
            called += weight * f64::from(*call);
            positives += weight * f64::from(labels[pair]);
        }
        (called + positives > 0.0).then(|| 2.0 * right / (called + positives))
    };
    debug_assert!((weighted_f1(&|_| 1.0).unwrap_or(0.0) - f1(scores, labels, threshold)).abs() < 1e-9);
    let area = |scores: Option<&[f64]>| {
        let ranking = Ranking::new(scores?, labels);
        estimate(&|weight| ranking.auroc(weight))
    };
    Scores {
        auroc: estimate(&|weight| ranking.auroc(weight)),
        auprc: estimate(&|weight| ranking.average_precision(weight)),
        f1: estimate(&weighted_f1),
        sum: area(sum),
        cosine: area(cosine),
    }
}
