//! Folds by perturbed gene, and what of a test condition was seen.

use std::collections::{BTreeSet, HashMap};

use crate::data::genome::GeneId;
use crate::error::{BioError, Result};
use crate::tasks::Options;

/// A test condition by what training has seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One gene, unseen.
    UnseenSingle,
    /// Two genes, neither seen.
    Seen0,
    /// Two genes, one seen.
    Seen1,
    /// Two genes, both seen, not together.
    Seen2,
}

impl Kind {
    /// All, in the order of a table.
    pub const ALL: [Self; 4] = [Self::UnseenSingle, Self::Seen0, Self::Seen1, Self::Seen2];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::UnseenSingle => "unseen single",
            Self::Seen0 => "pair, 0 seen",
            Self::Seen1 => "pair, 1 seen",
            Self::Seen2 => "pair, 2 seen",
        }
    }
}

/// One fold, as indices of conditions.
#[derive(Debug, Clone)]
pub struct Fold {
    /// To train on.
    pub train: Vec<usize>,
    /// To predict, and what was seen of it.
    pub test: Vec<(usize, Kind)>,
}

/// Every perturbed gene is unseen in one fold; pairs of seen genes are kept out of training in one
/// fold too.
pub fn folds(conditions: &[Vec<GeneId>], options: Options) -> Result<Vec<Fold>> {
    let count = options.folds;
    let genes: BTreeSet<GeneId> = conditions.iter().flatten().copied().collect();
    if count < 2 || genes.len() < 2 * count {
        return Err(BioError::data(format!(
            "{} perturbed genes cannot be split into {count} folds: expected at least {} (more data, or fewer folds)",
            genes.len(),
            2 * count.max(2)
        )));
    }
    let parts = options.parts(genes.len(), "perturbation folds");
    let part: HashMap<GeneId, usize> = genes.into_iter().zip(parts).collect();
    let pairs: Vec<usize> = (0..conditions.len()).filter(|index| conditions[*index].len() > 1).collect();
    let parts = options.parts(pairs.len(), "pair folds");
    let pair_part: HashMap<usize, usize> = pairs.into_iter().zip(parts).collect();
    let folds: Vec<Fold> = (0..count)
        .map(|fold| {
            let mut found = Fold { train: Vec::new(), test: Vec::new() };
            for (index, genes) in conditions.iter().enumerate() {
                let unseen = genes.iter().filter(|gene| part[gene] == fold).count();
                match (genes.len(), unseen) {
                    (1, 1) => found.test.push((index, Kind::UnseenSingle)),
                    (2, 2) => found.test.push((index, Kind::Seen0)),
                    (2, 1) => found.test.push((index, Kind::Seen1)),
                    (2, 0) if pair_part[&index] == fold => found.test.push((index, Kind::Seen2)),
                    _ => found.train.push(index),
                }
            }
            found
        })
        .collect();
    for (index, fold) in folds.iter().enumerate() {
        let leaked = fold.train.iter().flat_map(|c| &conditions[*c]).any(|gene| part[gene] == index);
        if leaked || fold.train.len() < 2 {
            return Err(BioError::data(
                "a fold has fewer than 2 training conditions: give more conditions, or fewer folds",
            ));
        }
    }
    Ok(folds)
}
