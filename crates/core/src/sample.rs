//! Choosing the next token from its logits: greedy, or temperature with top-k, top-p and min-p.
//!
//! Pure host code. The same seed and logits give the same tokens on every device.

use bft_formats::Random;

/// How the next token is chosen. Filters apply in this order: temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the likeliest token and ignores all else.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Start of the random sequence.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model gave NaN, +infinity or nothing but -infinity.
    #[error(
        "the model's logits are not usable (token {token}: {value}); the model file or the adapter is damaged, or the device computes wrongly: try --device cpu"
    )]
    NotFinite {
        /// First token with such a logit.
        token: usize,
        /// What was found there.
        value: f32,
    },
    /// There were no logits at all.
    #[error("the model gave no logits; its vocabulary is empty")]
    Empty,
}

/// Draws tokens, one at a time, from one random sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    how: Sampling,
    random: Random,
    kept: Vec<(u32, f64)>,
}

impl Sampler {
    /// A sampler at the start of `how.seed`'s sequence.
    pub fn new(how: Sampling) -> Self {
        Sampler { how, random: Random::new(how.seed), kept: Vec::new() }
    }

    /// The next token, chosen from `logits` `[V]`. Equal logits: the lower token id is taken first.
    ///
    /// # Errors
    /// Logits that are NaN or infinite upwards.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        let (likeliest, max) = argmax(logits)?;
        if self.how.temperature <= 0.0 || self.how.top_k == 1 {
            return Ok(likeliest);
        }
        // p of each token, relative to the likeliest's.
        let inverse = 1.0 / f64::from(self.how.temperature);
        self.kept.clear();
        self.kept.extend(
            (0u32..)
                .zip(logits)
                .map(|(token, logit)| (token, (f64::from(logit - max) * inverse).exp()))
                .filter(|(_, p)| *p > 0.0),
        );
        self.keep_top_k();
        self.keep_top_p();
        let least = f64::from(self.how.min_p);
        self.kept.retain(|(_, p)| *p >= least);
        let total: f64 = self.kept.iter().map(|(_, p)| p).sum();
        let mut left = self.random.uniform() * total;
        for (token, p) in &self.kept {
            left -= p;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        Ok(self.kept.last().map_or(likeliest, |(token, _)| *token))
    }

    fn keep_top_k(&mut self) {
        let k = self.how.top_k;
        if k > 0 && k < self.kept.len() {
            self.kept.select_nth_unstable_by(k - 1, likelier);
            self.kept.truncate(k);
        }
    }

    fn keep_top_p(&mut self) {
        if self.how.top_p >= 1.0 {
            return;
        }
        let total: f64 = self.kept.iter().map(|(_, p)| p).sum();
        // Tokens below (1 - top_p) / count hold less than 1 - top_p together, so the nucleus needs
        // none of them: leaving them out first makes the sort short.
        let spare = (1.0 - f64::from(self.how.top_p)) * total / self.kept.len() as f64;
        self.kept.retain(|(_, p)| *p >= spare);
        self.kept.sort_unstable_by(likelier);
        let wanted = f64::from(self.how.top_p) * total;
        let mut sum = 0.0;
        let mut count = 0;
        for (_, p) in &self.kept {
            sum += p;
            count += 1;
            if sum >= wanted {
                break;
            }
        }
        self.kept.truncate(count.max(1));
    }
}

/// Likelier first; equal: lower id first.
fn likelier(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The likeliest token and its logit.
fn argmax(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0u32..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SampleError::NotFinite { token: token as usize, value: logit });
        }
        if best.is_none_or(|(_, max)| logit > max) {
            best = Some((token, logit));
        }
    }
    match best {
        Some((_, max)) if max == f32::NEG_INFINITY => Err(SampleError::NotFinite { token: 0, value: max }),
        Some(found) => Ok(found),
        None => Err(SampleError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// log of these probabilities.
    const PROBABILITIES: [f32; 5] = [0.4, 0.3, 0.15, 0.1, 0.05];

    fn logits() -> Vec<f32> {
        PROBABILITIES.iter().map(|p| p.ln() + 3.0).collect()
    }

    /// How often each token comes, of `draws`.
    fn shares(how: Sampling, draws: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(how);
        let mut counts = vec![0.0; PROBABILITIES.len()];
        for _ in 0..draws {
            let token = sampler.pick(&logits()).expect("finite logits");
            counts[token as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_first_of_equals() {
        let mut greedy = Sampler::new(Sampling::default());
        assert_eq!(greedy.pick(&logits()), Ok(0));
        assert_eq!(greedy.pick(&[1.0, 5.0, 5.0, -3.0]), Ok(1));
        assert_eq!(greedy.pick(&[f32::NEG_INFINITY, -80.0]), Ok(1));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // 40,000 draws: a share's standard deviation is below 0.0025; five of them.
        for (share, p) in shares(warm(), 40_000).iter().zip(PROBABILITIES) {
            assert!((share - f64::from(p)).abs() < 0.0125, "{share} is not {p}");
        }
    }

    #[test]
    fn temperature_sharpens() {
        let cold = Sampling { temperature: 0.5, ..warm() };
        let squares: Vec<f64> = PROBABILITIES.iter().map(|p| f64::from(p * p)).collect();
        let total: f64 = squares.iter().sum();
        for (share, square) in shares(cold, 40_000).iter().zip(squares) {
            assert!((share - square / total).abs() < 0.0125);
        }
    }

    #[test]
    fn filters_keep_just_what_they_say() {
        let kept = |how: Sampling| -> Vec<bool> { shares(how, 5_000).iter().map(|share| *share > 0.0).collect() };
        let two = [true, true, false, false, false];
        let three = [true, true, true, false, false];
        assert_eq!(kept(Sampling { top_k: 2, ..warm() }), two);
        // 0.4 + 0.3 does not reach 0.75: the third token is needed.
        assert_eq!(kept(Sampling { top_p: 0.75, ..warm() }), three);
        assert_eq!(kept(Sampling { top_p: 0.65, ..warm() }), two);
        assert_eq!(kept(Sampling { min_p: 0.3, ..warm() }), three);
        assert_eq!(kept(Sampling { top_p: 1e-6, ..warm() }), [true, false, false, false, false]);
        assert_eq!(kept(Sampling { top_k: 3, min_p: 0.5, ..warm() }), two);
    }

    #[test]
    fn one_seed_one_sequence() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..warm() });
            (0..64).map(|_| sampler.pick(&logits()).expect("finite")).collect::<Vec<u32>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn unusable_logits_are_an_error() {
        let mut sampler = Sampler::new(warm());
        assert!(matches!(sampler.pick(&[0.0, f32::NAN]), Err(SampleError::NotFinite { token: 1, .. })));
        assert!(sampler.pick(&[f32::INFINITY, 0.0]).is_err());
        assert!(sampler.pick(&[f32::NEG_INFINITY; 3]).is_err());
        assert_eq!(sampler.pick(&[]), Err(SampleError::Empty));
    }
}
