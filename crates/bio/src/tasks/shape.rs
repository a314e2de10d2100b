//! What every task shares: how it is run, its folds, its intervals, and what its table says of
//! them.

use bft_formats::Random;

use crate::data::genome::{GeneId, Genome, JUDGED};
use crate::error::Result;
use crate::genes::vectors::GeneVectors;
use crate::report::{Cell, Report};
use crate::stats::bootstrap::{self, Estimate};

/// How a task is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of splits, folds, drawn negatives and intervals.
    pub seed: u64,
    /// Parts that a task's units are split into, each of which is tested once. Interaction splits
    /// its genes once, 70/30.
    pub folds: usize,
    /// Redraws for an interval.
    pub redraws: usize,
    /// Train on labels in random order: everything must then land at chance.
    pub shuffle_labels: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, folds: 5, redraws: 1000, shuffle_labels: false }
    }
}

/// Data that gene vectors are judged by.
pub trait Task {
    /// The genes that need a vector, sorted.
    fn genes(&self) -> Vec<GeneId>;

    /// Evidence of the annotation that baselines may be made of: none that comes from what is
    /// predicted.
    fn evidence(&self) -> &'static [&'static str] {
        &JUDGED
    }

    /// A table with a row for each set of vectors, and the task's own baselines.
    ///
    /// # Errors
    /// Data that is too small for its split.
    fn run(&self, genome: &Genome, sets: &[GeneVectors], options: Options) -> Result<Report>;
}

impl Options {
    /// Units `0..units` in the order in which they are dealt to the folds.
    pub(super) fn dealt(&self, units: usize, stream: &str) -> Vec<usize> {
        let mut order: Vec<usize> = (0..units).collect();
        Random::stream(self.seed, stream).shuffle(&mut order);
        order
    }

    /// The fold in which each of `0..units` is tested.
    pub(super) fn parts(&self, units: usize, stream: &str) -> Vec<usize> {
        let mut parts = vec![0; units];
        for (place, unit) in self.dealt(units, stream).into_iter().enumerate() {
            parts[unit] = place % self.folds;
        }
        parts
    }

    /// Units to train on and units to test, fold by fold.
    pub(super) fn folds(&self, units: usize, stream: &str) -> Vec<(Vec<usize>, Vec<usize>)> {
        let order = self.dealt(units, stream);
        let fold = |fold| {
            let (mut train, mut test) = (Vec::new(), Vec::new());
            for (place, unit) in order.iter().enumerate() {
                if place % self.folds == fold { test.push(*unit) } else { train.push(*unit) }
            }
            (train, test)
        };
        (0..self.folds).map(fold).collect()
    }

    /// Puts what is trained on into random order, where that is asked for.
    pub(super) fn shuffle<T>(&self, labels: &mut [T], stream: &str) {
        if self.shuffle_labels {
            Random::stream(self.seed, stream).shuffle(labels);
        }
    }

    /// A statistic with its interval; see [`bootstrap::interval`].
    pub(super) fn interval(&self, units: usize, statistic: impl Fn(&[f64]) -> Option<f64> + Sync) -> Option<Estimate> {
        bootstrap::interval(units, self.redraws, self.seed, statistic)
    }

    /// The mean of one value a unit, with its interval.
    pub(super) fn mean(&self, values: &[f64]) -> Option<Estimate> {
        bootstrap::mean(values, self.redraws, self.seed)
    }

    /// Says which units are redrawn, the seed, and what shuffled labels should come to.
    pub(super) fn describe(&self, report: &mut Report, units: &str, chance: &str) {
        report.say("intervals", format!("95 %, {units} redrawn {} times", self.redraws));
        report.say("seed", self.seed.to_string());
        if self.shuffle_labels {
            report.say("labels", format!("shuffled in training: a check, {chance}"));
        }
    }
}

/// Whether every set has a vector of a gene.
pub(super) fn in_all<'s>(sets: &'s [GeneVectors]) -> impl Fn(&GeneId) -> bool + 's {
    |gene| sets.iter().all(|set| set.row(*gene).is_some())
}

/// Beside a row's name: a baseline, or what is being judged.
pub(super) fn kind(baseline: bool) -> Cell {
    Cell::from(if baseline { "baseline" } else { "judged" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_tested_once_and_folds_are_as_large_as_each_other() {
        let options = Options { folds: 3, ..Options::default() };
        let parts = options.parts(10, "units");
        let folds = options.folds(10, "units");
        for (fold, (train, test)) in folds.iter().enumerate() {
            assert!((3..=4).contains(&test.len()) && train.len() + test.len() == 10);
            assert!(test.iter().all(|unit| parts[*unit] == fold));
            assert!(train.iter().all(|unit| parts[*unit] != fold));
        }
        assert_ne!(parts, Options { seed: 1, ..options }.parts(10, "units"));
    }
}
