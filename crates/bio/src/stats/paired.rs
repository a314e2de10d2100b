//! Two arms of an experiment on the same units and seeds: their difference with a 95 % interval and
//! a p-value from redraws of both, and Holm's correction of many such p-values.

use bft_formats::Random;
use rayon::prelude::*;

use super::bootstrap::{Estimate, quantile};

/// `[seeds][units]` numerators and denominators of a ratio, such as right tokens and tokens.
pub type Ratios = [Vec<(f64, f64)>];

/// A difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Of the one arm's ratio less the other's.
    pub estimate: Estimate,
    /// Two-sided: twice the share of redraws on the rarer side of 0, each side with one more; 1 at
    /// most.
    pub p: f64,
}

/// Σ numerators / Σ denominators, seeds and units as often as they were drawn.
fn ratio(arm: &Ratios, seeds: &[usize], counts: &[f64]) -> Option<f64> {
    let (mut above, mut below) = (0.0, 0.0);
    for seed in seeds {
        for ((numerator, denominator), count) in arm[*seed].iter().zip(counts) {
            above += count * numerator;
            below += count * denominator;
        }
    }
    (below > 0.0).then(|| above / below)
}

/// Seeds and units of one redraw, each with replacement.
fn drawn(seeds: usize, units: usize, seed: u64) -> (Vec<usize>, Vec<f64>) {
    let mut random = Random::stream(seed, "paired");
    let mut counts = vec![0.0; units];
    (0..units).for_each(|_| counts[random.below(units)] += 1.0);
    ((0..seeds).map(|_| random.below(seeds)).collect(), counts)
}

/// Redraws seeds and units `times` times, the same for whatever `statistic` compares, which gets
/// the drawn seeds and how often each unit was drawn.
fn redrawn(
    seeds: usize,
    units: usize,
    times: usize,
    statistic: impl Fn(&[usize], &[f64]) -> Option<f64> + Sync,
) -> Option<(f64, Vec<f64>)> {
    let value = statistic(&(0..seeds).collect::<Vec<_>>(), &vec![1.0; units])?;
    let mut values: Vec<f64> = (0..times)
        .into_par_iter()
        .filter_map(|time| {
            let (seeds, counts) = drawn(seeds, units, time as u64);
            statistic(&seeds, &counts)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    Some((value, values))
}

fn units(arm: &Ratios) -> usize {
    arm.iter().map(Vec::len).max().unwrap_or(0)
}

fn estimate(value: f64, values: &[f64]) -> Estimate {
    Estimate { value, range: quantile(values, 0.025).zip(quantile(values, 0.975)) }
}

/// One arm's ratio, with its interval. `None` where nothing stands below the line.
pub fn interval(arm: &Ratios, times: usize) -> Option<Estimate> {
    let (value, values) = redrawn(arm.len(), units(arm), times, |seeds, counts| ratio(arm, seeds, counts))?;
    Some(estimate(value, &values))
}

/// How much larger the one arm's ratio is than the other's. `None` where an arm has none, or they
/// have not the same seeds and units.
pub fn difference(one: &Ratios, other: &Ratios, times: usize) -> Option<Difference> {
    let alike = one.iter().map(Vec::len).eq(other.iter().map(Vec::len));
    if !alike || one.is_empty() {
        return None;
    }
    let (value, values) = redrawn(one.len(), units(one), times, |seeds, counts| {
        Some(ratio(one, seeds, counts)? - ratio(other, seeds, counts)?)
    })?;
    let side = |is: fn(&f64) -> bool| (values.iter().filter(|value| is(value)).count() + 1) as f64;
    let rarer = side(|value| *value <= 0.0).min(side(|value| *value >= 0.0));
    Some(Difference { estimate: estimate(value, &values), p: (2.0 * rarer / (values.len() + 1) as f64).min(1.0) })
}

/// Holm's step-down correction: p-values that may be compared with the level that all of them
/// together are to keep.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut corrected, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (rank, place) in order.into_iter().enumerate() {
        least = least.max(p[place] * (p.len() - rank) as f64).min(1.0);
        corrected[place] = least;
    }
    corrected
}
