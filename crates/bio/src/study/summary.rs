//! Means over seeds, and which differences are larger than the seeds' spread.

use super::measure::{MEASURES, Measured};
use super::setup::Setting;

/// One setting's numbers over its seeds.
#[derive(Debug, Clone)]
pub struct Row {
    /// Loss and group.
    pub name: String,
    /// A value for each seed, by measure.
    pub seeds: Vec<Vec<f64>>,
}

/// All settings.
#[derive(Debug, Clone)]
pub struct Summary {
    /// In the order they first came.
    pub rows: Vec<Row>,
}

impl Row {
    /// Mean and standard deviation (divisor n − 1) of a measure.
    pub fn mean(&self, measure: usize) -> Option<(f64, Option<f64>)> {
        let values = &self.seeds[measure];
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some((mean, (values.len() > 1).then(|| (square / (count - 1.0)).sqrt())))
    }

    fn range(&self, measure: usize) -> Option<(f64, f64)> {
        let values = &self.seeds[measure];
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (values.len() > 1).then_some((low, high))
    }
}

impl Summary {
    /// Groups runs by setting.
    pub fn new(found: &[(Setting, Measured)]) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for (setting, measured) in found {
            let name = setting.name();
            let index = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
                rows.push(Row { name, seeds: vec![Vec::new(); MEASURES.len()] });
                rows.len() - 1
            });
            for (seeds, value) in rows[index].seeds.iter_mut().zip(&measured.values) {
                seeds.extend(*value);
            }
        }
        Self { rows }
    }

    /// Mean ± deviation of a setting's measure, as tables show it.
    pub fn shown(&self, row: usize, measure: usize) -> String {
        match self.rows[row].mean(measure) {
            None => "-".to_owned(),
            Some((mean, None)) => format!("{mean:.3}"),
            Some((mean, Some(deviation))) => format!("{mean:.3} ± {deviation:.3}"),
        }
    }

    /// For each measure, how each setting compares with sft: better or worse where no seed of the
    /// one reaches a seed of the other, else within the spread.
    pub fn against_sft(&self) -> Vec<String> {
        let Some(sft) = self.rows.iter().find(|row| row.name == "sft") else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        for (measure, (name, less)) in MEASURES.iter().enumerate() {
            let (mut better, mut worse, mut within) = (Vec::new(), Vec::new(), Vec::new());
            for row in self.rows.iter().filter(|row| !["sft", "untuned"].contains(&row.name.as_str())) {
                let (Some((low, high)), Some((sft_low, sft_high))) = (row.range(measure), sft.range(measure)) else {
                    continue;
                };
                let list = if high < sft_low {
                    if *less { &mut better } else { &mut worse }
                } else if low > sft_high {
                    if *less { &mut worse } else { &mut better }
                } else {
                    &mut within
                };
                list.push(row.name.as_str());
            }
            let part = |what: &str, list: &[&str]| {
                if list.is_empty() { String::new() } else { format!("; {what}: {}", list.join(", ")) }
            };
            if !(better.is_empty() && worse.is_empty() && within.is_empty()) {
                lines.push(format!(
                    "{name}{}{}{}",
                    part("better than sft in every seed", &better),
                    part("worse than sft in every seed", &worse),
                    part("within the seeds' spread", &within)
                ));
            }
        }
        lines
    }

    /// One line a setting, measure and seed.
    pub fn tsv(&self) -> String {
        let mut text = "setting\tmeasure\tseed\tvalue\n".to_owned();
        for row in &self.rows {
            for ((name, _), seeds) in MEASURES.iter().zip(&row.seeds) {
                for (seed, value) in seeds.iter().enumerate() {
                    text.push_str(&format!("{}\t{name}\t{seed}\t{value}\n", row.name));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bft_core::LossKind;

    #[test]
    fn only_what_no_seed_contradicts_is_called_a_difference() {
        let run = |loss, seed, exact: f64, nll: f64| {
            let mut values = vec![None; MEASURES.len()];
            (values[0], values[2]) = (Some(exact), Some(nll));
            let group = (loss == LossKind::Bft).then_some(16);
            (Setting { loss: Some(loss), group, seed }, Measured::new(values))
        };
        let summary = Summary::new(&[
            run(LossKind::Sft, 0, 0.5, 2.0),
            run(LossKind::Sft, 1, 0.6, 2.2),
            run(LossKind::Bft, 0, 0.7, 2.1),
            run(LossKind::Bft, 1, 0.8, 2.4),
        ]);
        assert_eq!(summary.shown(0, 0), "0.550 ± 0.071");
        assert_eq!(
            summary.against_sft(),
            [
                "exact match, unseen phrasing; better than sft in every seed: bft g=16",
                "NLL, unseen phrasing; within the seeds' spread: bft g=16",
            ]
        );
    }
}
