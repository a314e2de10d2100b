//! Training and test pairs that share no gene, and negatives that keep every gene's degree.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::data::genome::GeneId;
use crate::data::pairs::{Pair, Pairs};
use crate::error::{BioError, Result};
use crate::report::Report;
use bft_formats::Random;

/// Labelled pairs of both sides.
#[derive(Debug, Clone)]
pub struct PairSplit {
    /// Training pairs.
    pub train: Vec<Pair>,
    /// Their labels.
    pub train_labels: Vec<bool>,
    /// Test pairs.
    pub test: Vec<Pair>,
    /// Their labels.
    pub test_labels: Vec<bool>,
    /// Number of test genes that occur in a pair.
    pub test_genes: usize,
    /// Each test pair as numbers of test genes, for redrawing genes.
    pub test_units: Vec<(usize, usize)>,
    /// Pairs dropped because their genes lie on both sides.
    pub crossing: usize,
    /// Positives that no negative could be drawn for.
    pub unmatched: usize,
    /// Whether negatives were drawn here.
    pub drawn: bool,
}

/// Splits genes, then pairs. Negatives are the file's own where it has some, else drawn on each
/// side.
pub fn split(pairs: &Pairs, train_share: f64, seed: u64) -> PairSplit {
    let mut genes = pairs.genes();
    Random::stream(seed, "gene split").shuffle(&mut genes);
    let trained: HashSet<GeneId> =
        genes[..(genes.len() as f64 * train_share).round() as usize].iter().copied().collect();
    let mut crossing = 0;
    let mut sides = |list: &[Pair]| {
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for pair in list {
            match (trained.contains(&pair.0), trained.contains(&pair.1)) {
                (true, true) => train.push(*pair),
                (false, false) => test.push(*pair),
                _ => crossing += 1,
            }
        }
        (train, test)
    };
    let (train, test) = sides(&pairs.positives);
    let drawn = pairs.negatives.is_empty();
    let (train_negatives, test_negatives) = if drawn {
        let known: HashSet<Pair> = pairs.positives.iter().copied().collect();
        let draw = |list: &[Pair], stream| negatives(list, &known, &mut Random::stream(seed, stream));
        (draw(&train, "train negatives"), draw(&test, "test negatives"))
    } else {
        sides(&pairs.negatives)
    };
    let unmatched = if drawn { train.len() + test.len() - train_negatives.len() - test_negatives.len() } else { 0 };
    let labels = |positives: &[Pair], negatives: &[Pair]| {
        let mut labels = vec![true; positives.len()];
        labels.resize(positives.len() + negatives.len(), false);
        labels
    };
    let (train_labels, test_labels) = (labels(&train, &train_negatives), labels(&test, &test_negatives));
    let train = [train, train_negatives].concat();
    let test = [test, test_negatives].concat();
    let units: BTreeSet<GeneId> = test.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let units: HashMap<GeneId, usize> = units.into_iter().enumerate().map(|(unit, gene)| (gene, unit)).collect();
    PairSplit {
        test_genes: units.len(),
        test_units: test.iter().map(|(a, b)| (units[a], units[b])).collect(),
        train,
        train_labels,
        test,
        test_labels,
        crossing,
        unmatched,
        drawn,
    }
}

/// One negative for each positive by exchanging partners: every gene is in as many negatives as
/// positives. Pairs that no exchange makes new are left out.
pub fn negatives(positives: &[Pair], known: &HashSet<Pair>, random: &mut Random) -> Vec<Pair> {
    const TRIES: usize = 200;
    let order = |(a, b): Pair| (a.min(b), a.max(b));
    let good = |pair: Pair| pair.0 != pair.1 && !known.contains(&order(pair));
    // Either end may be the one that is exchanged.
    let mut pairs: Vec<Pair> =
        positives.iter().map(|(a, b)| if random.bits() & 1 == 0 { (*a, *b) } else { (*b, *a) }).collect();
    let mut used: HashSet<Pair> = HashSet::new();
    let mut partners: Vec<GeneId> = pairs.iter().map(|(_, b)| *b).collect();
    random.shuffle(&mut partners);
    for (pair, partner) in pairs.iter_mut().zip(partners) {
        pair.1 = partner;
    }
    // Exchange until every pair is new and met once; a pair is counted in `used` while it stands.
    let mut wrong: Vec<usize> = Vec::new();
    let mut settled = vec![false; pairs.len()];
    for index in 0..pairs.len() {
        settled[index] = good(pairs[index]) && used.insert(order(pairs[index]));
        if !settled[index] {
            wrong.push(index);
        }
    }
    for index in wrong {
        for _ in 0..TRIES {
            let other = random.below(pairs.len());
            if other == index || !settled[other] {
                continue;
            }
            let (mine, theirs) = ((pairs[index].0, pairs[other].1), (pairs[other].0, pairs[index].1));
            used.remove(&order(pairs[other]));
            let fits = good(mine)
                && good(theirs)
                && order(mine) != order(theirs)
                && !used.contains(&order(mine))
                && !used.contains(&order(theirs));
            if fits {
                (pairs[index], pairs[other]) = (mine, theirs);
                used.extend([order(mine), order(theirs)]);
                settled[index] = true;
                break;
            }
            used.insert(order(pairs[other]));
        }
    }
    pairs.iter().zip(&settled).filter(|(_, settled)| **settled).map(|(pair, _)| order(*pair)).collect()
}

impl PairSplit {
    /// Whether there is enough to train and test on, and nothing on both sides.
    pub fn check(&self) -> Result<()> {
        let genes = |pairs: &[Pair]| pairs.iter().flat_map(|(a, b)| [*a, *b]).collect::<HashSet<_>>();
        let shared = genes(&self.train).intersection(&genes(&self.test)).count();
        if shared > 0 {
            return Err(BioError::data(format!(
                "{shared} genes are on both sides of the split; this is a fault of bft, please report it"
            )));
        }
        for (side, labels) in [("training", &self.train_labels), ("test", &self.test_labels)] {
            let positives = labels.iter().filter(|label| **label).count();
            if positives < 5 || labels.len() - positives < 5 {
                return Err(BioError::data(format!(
                    "the {side} side has {positives} interacting and {} other pairs once pairs across the split are dropped, expected at least 5 of each: give more pairs",
                    labels.len() - positives
                )));
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self, report: &mut Report) {
        let positives = |labels: &[bool]| labels.iter().filter(|label| **label).count();
        report.say("split", format!(
            "by gene; training {} pairs ({} interacting), test {} pairs ({} interacting) of {} genes; {} pairs across the split dropped",
            self.train.len(), positives(&self.train_labels), self.test.len(), positives(&self.test_labels), self.test_genes, self.crossing
        ));
        report.say(
            "negatives",
            if self.drawn {
                format!(
                    "drawn by exchanging partners, every gene's degree kept; {} positives without one",
                    self.unmatched
                )
            } else {
                "as labelled in the file".to_owned()
            },
        );
        report.say("leakage", "0 genes on both sides (checked)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs inside rings of genes: gene n meets n + 1 and n + 2.
    fn pairs(genes: usize) -> Pairs {
        let near = |n: usize| [1, 2].map(|step| (n.min((n + step) % genes), n.max((n + step) % genes)));
        let mut positives: Vec<Pair> = (0..genes).flat_map(near).collect();
        positives.sort_unstable();
        positives.dedup();
        Pairs { positives, ..Pairs::default() }
    }

    fn degrees(pairs: &[Pair]) -> HashMap<GeneId, usize> {
        let mut degrees = HashMap::new();
        for gene in pairs.iter().flat_map(|(a, b)| [*a, *b]) {
            *degrees.entry(gene).or_default() += 1;
        }
        degrees
    }

    #[test]
    fn negatives_are_new_pairs_and_keep_every_degree() {
        // A hub of 30 pairs beside the ring, so that degrees differ.
        let mut positives = pairs(200).positives;
        positives.extend((0..30).map(|n| (5 * n + 20, 200)));
        let known: HashSet<Pair> = positives.iter().copied().collect();
        let drawn = negatives(&positives, &known, &mut Random::stream(3, "test"));
        assert_eq!(drawn.len(), positives.len());
        assert_eq!(degrees(&drawn), degrees(&positives));
        assert!(drawn.iter().all(|pair| pair.0 < pair.1 && !known.contains(pair)));
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
    }

    #[test]
    fn no_gene_is_on_both_sides_and_a_leak_is_noticed() {
        let mut found = split(&pairs(300), 0.7, 1);
        found.check().expect("nothing leaks");
        assert!(found.crossing > 0 && found.test.len() > 10);
        found.test.push(found.train[0]);
        found.test_labels.push(true);
        let text = found.check().expect_err("a leak").to_string();
        assert!(text.contains("2 genes are on both sides"), "{text}");
    }
}
