//! What a model makes of every trained token beyond its log-probability: whether it is the
//! likeliest, how sure the model is, and its log-probability at other temperatures.

use crate::batches::{BatchBounds, groups, pack};
use crate::engine::{EngineError, Logits};
use crate::samples::Sample;

/// Temperatures that log-probabilities are taken at, 8 / j for j from 1: one exponential of a logit
/// gives them all, as its powers.
pub const TEMPERATURES: [f32; 16] = [
    8.0,
    4.0,
    8.0 / 3.0,
    2.0,
    1.6,
    8.0 / 6.0,
    8.0 / 7.0,
    1.0,
    8.0 / 9.0,
    0.8,
    8.0 / 11.0,
    8.0 / 12.0,
    8.0 / 13.0,
    8.0 / 14.0,
    8.0 / 15.0,
    0.5,
];

/// Place of temperature 1.
pub const UNTEMPERED: usize = 7;

/// A trained token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// log p at each of [`TEMPERATURES`], in nats.
    pub log_p: [f32; TEMPERATURES.len()],
    /// Whether no token of the vocabulary is likelier.
    pub likeliest: bool,
    /// Probability of the likeliest token, at temperature 1.
    pub confidence: f32,
}

impl TokenScore {
    /// Of a token by the logits `[V]` that it was to be drawn from.
    ///
    /// # Errors
    /// Where a logit is not finite, or the label is none of them.
    pub fn new(logits: &[f32], label: u32) -> Result<Self, String> {
        let own = *logits.get(label as usize).ok_or_else(|| format!("token {label} has no logit"))?;
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !most.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return Err("the model computes logits that are not finite".to_owned());
        }
        let mut sums = [0.0f64; TEMPERATURES.len()];
        // A chunk stays in the first cache while it is raised to its powers.
        let (mut root, mut power) = ([0.0f32; 1024], [0.0f32; 1024]);
        for chunk in logits.chunks(root.len()) {
            for (place, logit) in chunk.iter().enumerate() {
                root[place] = ((logit - most) / TEMPERATURES[0]).exp();
            }
            let (root, power) = (&root[..chunk.len()], &mut power[..chunk.len()]);
            power.fill(1.0);
            for sum in &mut sums {
                let mut lanes = [0.0f32; 16];
                for (powers, roots) in power.chunks_mut(lanes.len()).zip(root.chunks(lanes.len())) {
                    for ((lane, power), root) in lanes.iter_mut().zip(powers).zip(roots) {
                        *power *= root;
                        *lane += *power;
                    }
                }
                *sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
            }
        }
        let mut log_p = [0.0; TEMPERATURES.len()];
        for ((log_p, sum), temperature) in log_p.iter_mut().zip(sums).zip(TEMPERATURES) {
            *log_p = (f64::from(own - most) / f64::from(temperature) - sum.ln()) as f32;
        }
        Ok(Self { log_p, likeliest: own >= most, confidence: (1.0 / sums[UNTEMPERED]) as f32 })
    }
}

/// Scores the trained tokens of every sample, in groups that fit `bounds`; `on_group` hears how many
/// samples are done.
///
/// # Errors
/// Where the device fails, or a model's logits are not finite.
pub async fn score(
    engine: &mut impl Logits,
    samples: &[Sample],
    bounds: BatchBounds,
    mut on_group: impl FnMut(usize),
) -> Result<Vec<Vec<TokenScore>>, EngineError> {
    let mut found = Vec::with_capacity(samples.len());
    for group in groups(samples, bounds) {
        let batch = pack(&group.iter().collect::<Vec<_>>());
        let logits = engine.logits(&batch).await?;
        let vocab = logits.len() / batch.labels.len().max(1);
        if vocab * batch.labels.len() != logits.len() || (vocab == 0 && !batch.labels.is_empty()) {
            return Err(format!("the device gave {} logits for {} tokens", logits.len(), batch.labels.len()).into());
        }
        for (range, sample) in batch.trained_segments.windows(2).zip(group) {
            let places = range[0] as usize..range[1] as usize;
            let scores = places.map(|place| {
                TokenScore::new(&logits[place * vocab..(place + 1) * vocab], batch.labels[place])
                    .map_err(|problem| EngineError::from(format!("{}: {problem}", sample.origin)))
            });
            found.push(scores.collect::<Result<Vec<_>, _>>()?);
        }
        on_group(found.len());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{MASKED, Origin};
    use bft_core::Batch;

    /// Logits that grow with the label and with the place.
    struct Made(usize);

    fn logit(place: usize, token: usize) -> f32 {
        ((place * 31 + token * 17) % 23) as f32 * 0.7 - 5.0
    }

    impl Logits for Made {
        async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
            let rows = batch.labels.iter().map(|label| *label as usize);
            Ok(rows.flat_map(|place| (0..self.0).map(move |token| logit(place, token))).collect())
        }
    }

    #[test]
    fn every_temperature_is_the_softmax_of_logits_over_it() {
        for vocab in [5, 1024, 2500] {
            let logits: Vec<f32> = (0..vocab).map(|token| logit(3, token)).collect();
            let score = TokenScore::new(&logits, 4).unwrap();
            for (found, temperature) in score.log_p.iter().zip(TEMPERATURES) {
                let scaled = |logit: f32| f64::from(logit) / f64::from(temperature);
                let sum: f64 = logits.iter().map(|logit| scaled(*logit).exp()).sum();
                let expected = scaled(logits[4]) - sum.ln();
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} against {expected} at {temperature}");
            }
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            assert!((f64::from(score.confidence) - f64::from(most).exp() / sum).abs() < 1e-6);
            assert_eq!(score.likeliest, logits[4] >= most);
        }
        assert_eq!(TEMPERATURES[UNTEMPERED], 1.0);
        assert!(TEMPERATURES.iter().enumerate().all(|(j, t)| (t - 8.0 / (j + 1) as f32).abs() < 1e-6));
    }

    #[test]
    fn scores_do_not_depend_on_how_samples_are_grouped_and_masked_tokens_have_none() {
        let origin = Origin::line(&"d".into(), 1);
        let sample =
            |labels: &[i32]| Sample { tokens: vec![1; labels.len()], labels: labels.to_vec(), origin: origin.clone() };
        let samples = [sample(&[0, 3, MASKED, 2]), sample(&[MASKED, 1])];
        let all = BatchBounds { tokens: 100, trained: 100, samples: 100 };
        let one = BatchBounds { tokens: 1, trained: 1, samples: 1 };
        let run = |bounds| pollster::block_on(score(&mut Made(40), &samples, bounds, |_| ())).unwrap();
        assert_eq!(run(all), run(one));
        assert_eq!(run(all).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let expected = TokenScore::new(&(0..40).map(|token| logit(3, token)).collect::<Vec<_>>(), 3).unwrap();
        assert_eq!(run(all)[0][0], expected);
    }

    #[test]
    fn what_is_not_finite_or_has_no_logit_is_refused() {
        assert!(TokenScore::new(&[0.0, f32::NAN], 0).is_err());
        assert!(TokenScore::new(&[0.0, f32::INFINITY], 0).is_err());
        assert!(TokenScore::new(&[0.0, 1.0], 2).is_err());
        let masked = TokenScore::new(&[0.0, f32::NEG_INFINITY], 0).unwrap();
        assert_eq!((masked.log_p[UNTEMPERED], masked.likeliest), (0.0, true));
    }
}
