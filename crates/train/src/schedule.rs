//! Learning-rate schedules, counted as transformers counts them: step k of a run takes the factor
//! of k − 1, so that a warm-up begins at a rate of 0 and the last step still learns.

use std::f64::consts::PI;

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the full rate towards the lowest.
    #[default]
    Cosine,
    /// A straight line from the full rate towards the lowest.
    Linear,
    /// The full rate to the end.
    Constant,
    /// Warm-up, stable, decay: the full rate, and over the last steps half a cosine towards the
    /// lowest.
    Wsd,
}

crate::setting::typed!(Schedule: words);

impl Schedule {
    /// Whether it ever falls, so that there is a lowest rate.
    pub const fn falls(self) -> bool {
        !matches!(self, Self::Constant)
    }
}

/// The learning rates of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// How they go after the warm-up.
    pub schedule: Schedule,
    /// The highest.
    pub peak: f64,
    /// The lowest after the warm-up, which a schedule that falls would reach after the last step.
    pub min: f64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps that warm up.
    pub warmup: u64,
    /// Last steps over which [`Schedule::Wsd`] falls.
    pub decay: u64,
}

impl Rates {
    /// The rate of `step`, from 1.
    pub fn at(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        let lowest = self.min / self.peak;
        let between = |share: f64| share * (1.0 - lowest) + lowest;
        if done < self.warmup {
            let share = done as f64 / self.warmup as f64;
            // The warm-up of transformers' WSD begins at the lowest rate, that of the others at 0.
            return self.peak * if self.schedule == Schedule::Wsd { between(share) } else { share };
        }
        let fall = if self.schedule == Schedule::Wsd { self.decay } else { self.steps.saturating_sub(self.warmup) };
        // The share of the fall that lies behind this step.
        let fallen = done.saturating_sub(self.steps.saturating_sub(fall)) as f64 / fall.max(1) as f64;
        self.peak
            * match self.schedule {
                Schedule::Cosine | Schedule::Wsd => between(0.5 * (1.0 + (PI * fallen.min(1.0)).cos())),
                Schedule::Linear => between(1.0 - fallen.min(1.0)),
                Schedule::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    /// One run of `schedules.json`: settings as a `--config` file has them, and what transformers
    /// gave each step.
    #[derive(serde::Deserialize)]
    struct Case {
        transformers: String,
        settings: TrainConfig,
        rates: Vec<f64>,
    }

    #[test]
    fn every_rate_is_that_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/schedules.json");
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(cases.len() > 30);
        for Case { transformers, settings, rates: expected } in cases {
            assert_eq!(settings.validate(), Ok(()), "{transformers}");
            let steps = settings.steps.unwrap();
            let rates = settings.rates(steps).unwrap();
            for (step, expected) in (1..).zip(expected) {
                let found = rates.at(step);
                let error = (found - expected).abs();
                assert!(error <= 1e-12 * settings.lr, "{transformers}, step {step}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn every_length_is_finite_and_between_zero_and_the_peak() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Constant, Schedule::Wsd] {
            for (steps, warmup, decay) in [(1, 0, 1), (1, 1, 0), (3, 3, 0), (3, 9, 0), (7, 6, 1), (7, 0, 7)] {
                let rates = Rates { schedule, peak: 0.5, min: 0.0, steps, warmup, decay };
                for rate in (1..=steps).map(|step| rates.at(step)) {
                    assert!((0.0..=0.5).contains(&rate), "{rates:?}: {rate}");
                }
            }
        }
    }
}
