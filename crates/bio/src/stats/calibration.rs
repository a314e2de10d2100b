//! Whether a model is right as often as it is sure.

/// Predictions by confidence, in fifteen bins of equal width.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    /// Predictions, the sum of their confidences, and how many were right.
    bins: [(f64, f64, f64); 15],
}

impl Calibration {
    /// Counts a prediction; a confidence on a border belongs to the bin below it.
    pub fn add(&mut self, confidence: f64, right: bool) {
        let place = (confidence * self.bins.len() as f64).ceil() as usize;
        let bin = &mut self.bins[place.clamp(1, 15) - 1];
        *bin = (bin.0 + 1.0, bin.1 + confidence, bin.2 + f64::from(right));
    }

    /// Counts those of another, too.
    pub fn merge(&mut self, other: &Self) {
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            *bin = (bin.0 + more.0, bin.1 + more.1, bin.2 + more.2);
        }
    }

    /// Expected calibration error: how far mean confidence and share of right predictions are apart
    /// in a bin, weighed by the bin's predictions. `None` without any.
    pub fn error(&self) -> Option<f64> {
        let total: f64 = self.bins.iter().map(|bin| bin.0).sum();
        (total > 0.0).then(|| self.bins.iter().map(|(_, sure, right)| (sure - right).abs()).sum::<f64>() / total)
    }
}
