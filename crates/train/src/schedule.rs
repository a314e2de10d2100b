//! Learning-rate schedules.

use std::f64::consts::PI;

/// How the learning rate goes after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the full rate to 0 at the last step.
    #[default]
    Cosine,
    /// A straight line from the full rate to 0 at the last step.
    Linear,
    /// The full rate to the end.
    Constant,
}

crate::setting::typed!(Schedule: words);

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 3] = [Self::Cosine, Self::Linear, Self::Constant];

    /// Share of the full learning rate at `step` (from 1) of `steps`, of which `warmup` warm up.
    ///
    /// Warmup rises as k/W, so the first step already learns and step W has the full rate. After
    /// it, with x = (k − W)/(T − W): cosine ½(1 + cos πx), linear 1 − x, both 0 at the last step.
    pub fn factor(self, step: u64, steps: u64, warmup: u64) -> f64 {
        if step <= warmup {
            return step as f64 / warmup as f64;
        }
        let rest = steps.saturating_sub(warmup).max(1);
        let x = ((step - warmup) as f64 / rest as f64).min(1.0);
        match self {
            Self::Cosine => 0.5 * (1.0 + (PI * x).cos()),
            Self::Linear => 1.0 - x,
            Self::Constant => 1.0,
        }
    }

    /// Whether a rate before the last step depends on how many steps there are.
    pub const fn depends_on_steps(self) -> bool {
        !matches!(self, Self::Constant)
    }

    /// Learning rate at `step`.
    pub fn rate(self, peak: f64, step: u64, steps: u64, warmup: u64) -> f64 {
        peak * self.factor(step, steps, warmup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, steps: u64, warmup: u64) -> Vec<f64> {
        (1..=steps).map(|k| schedule.factor(k, steps, warmup)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-12, "found {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn cosine_follows_the_formula_by_hand() {
        let (half, tall) = (0.5, (1.0 + 0.5f64.sqrt()) / 2.0);
        close(&rates(Schedule::Cosine, 6, 2), &[0.5, 1.0, tall, half, 1.0 - tall, 0.0]);
        close(&rates(Schedule::Cosine, 4, 0), &[tall, half, 1.0 - tall, 0.0]);
    }

    #[test]
    fn linear_and_constant_warm_up_too() {
        close(&rates(Schedule::Linear, 6, 2), &[0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        close(&rates(Schedule::Constant, 4, 2), &[0.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn every_length_is_finite_and_between_zero_and_one() {
        for schedule in Schedule::ALL {
            for (steps, warmup) in [(1, 0), (1, 1), (3, 3), (3, 9), (7, 6)] {
                for factor in rates(schedule, steps, warmup) {
                    assert!((0.0..=1.0).contains(&factor), "{schedule:?} {steps} {warmup}: {factor}");
                }
            }
        }
    }
}
