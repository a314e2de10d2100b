//! 95 % intervals from drawing units again: genes, perturbations or cells, not the examples that
//! share them.

use bft_formats::Random;
use rayon::prelude::*;

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// On the data as it is.
    pub value: f64,
    /// 2.5 % and 97.5 % quantiles of the redrawn values; `None` where nothing was redrawn.
    pub range: Option<(f64, f64)>,
}

/// Redraws `units` units with replacement `times` times. `statistic` gets how often each unit was
/// drawn; `None` (no positives drawn, say) is left out. `None` where the statistic is undefined on
/// the data as it is.
pub fn interval(
    units: usize,
    times: usize,
    seed: u64,
    statistic: impl Fn(&[f64]) -> Option<f64> + Sync,
) -> Option<Estimate> {
    let value = statistic(&vec![1.0; units])?;
    let mut drawn: Vec<f64> = (0..times)
        .into_par_iter()
        .filter_map(|time| {
            let mut random = Random::stream(seed.wrapping_add(time as u64), "bootstrap");
            let mut counts = vec![0.0; units];
            for _ in 0..units {
                counts[random.below(units)] += 1.0;
            }
            statistic(&counts)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    Some(Estimate { value, range: quantile(&drawn, 0.025).zip(quantile(&drawn, 0.975)) })
}

/// The mean of one value a unit, with its interval.
pub fn mean(values: &[f64], times: usize, seed: u64) -> Option<Estimate> {
    interval(values.len(), times, seed, |counts| {
        let total: f64 = counts.iter().sum();
        let sum: f64 = counts.iter().zip(values).map(|(count, value)| count * value).sum();
        (total > 0.0).then(|| sum / total)
    })
}

/// Quantile of sorted values by linear interpolation, as NumPy's default.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}
