//! What is measured of one run.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bft_core::{LossConfig, LossKind, Runner, RunnerOptions};
use bft_formats::Adapter;
use bft_train::{BatchBounds, RowOptions, Sample, SampleOptions, evaluate, make_samples, read_rows};
use serde_json::Value;

use super::go_on;
use super::setup::Study;
use crate::data::pairs::Pairs;
use crate::data::response::Response;
use crate::error::{BioError, Result, read_text};
use crate::genes::encode::embed;
use crate::genes::generate::Answerer;
use crate::genes::profile;
use crate::genes::vectors::GeneVectors;
use crate::stats::features::Features;
use crate::stats::tfidf::words;
use crate::tasks::{Options, Task};

/// What is measured, in the order of [`Measured::values`]; whether less is better.
pub const MEASURES: [(&str, bool); 7] = [
    ("exact match, unseen phrasing", false),
    ("token F1, unseen phrasing", false),
    ("NLL, unseen phrasing", true),
    ("NLL, unseen genes", true),
    ("NLL, general English", true),
    ("fitness: MSE / train mean", true),
    ("complexes: AUROC", false),
];

/// One run's numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    key: String,
    /// By measure; `None` where it was left out.
    pub values: Vec<Option<f64>>,
}

impl Measured {
    /// Numbers of measures in order.
    pub fn new(values: Vec<Option<f64>>) -> Self {
        Self { key: String::new(), values }
    }

    /// Reads what a run with the same settings left.
    pub(super) fn read(path: &Path, key: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str::<Self>(&text).ok().filter(|kept| kept.key == key && kept.values.len() == MEASURES.len())
    }

    pub(super) fn write(&self, path: &Path, key: &str) -> Result<()> {
        let kept = Self { key: key.to_owned(), ..self.clone() };
        let text = serde_json::to_string(&kept).map_err(BioError::data)?;
        Ok(bft_formats::write_atomic(path, |out| out.write_all(text.as_bytes()))?)
    }
}

/// The questions that every run is asked.
pub(super) struct Tests {
    /// Unseen phrasing, unseen genes, general English.
    texts: [Vec<Sample>; 3],
    /// Question, and the sentence that answers it.
    questions: Vec<(String, String)>,
    fitness: Response,
    pairs: Pairs,
}

impl Tests {
    pub(super) fn read(study: &Study<'_>, data: &Path) -> Result<Self> {
        let samples = |file: &str| -> Result<Vec<Sample>> {
            let rows = read_rows(&[data.join(file)], &RowOptions::default()).map_err(BioError::model)?;
            let options = SampleOptions { truncate: true, ..SampleOptions::default() };
            let mut found = make_samples(study.model, rows, &options).map_err(BioError::model)?.samples;
            found.truncate(study.preset.rows);
            Ok(found)
        };
        let text = read_text(&data.join("test_phrasing.jsonl"))?;
        let questions = text.lines().take(study.preset.answers).filter_map(|line| {
            let row: Value = serde_json::from_str(line).ok()?;
            let turn = |turn: usize| Some(row["messages"][turn]["content"].as_str()?.to_owned());
            Some((turn(0)?, turn(1)?))
        });
        Ok(Self {
            texts: [samples("test_phrasing.jsonl")?, samples("test_genes.jsonl")?, samples("general.jsonl")?],
            questions: questions.collect(),
            fitness: study.response.drawn(study.preset.genes, 0),
            pairs: Pairs::of_complexes(&study.complexes.drawn(study.preset.genes, 0), 2, 15),
        })
    }

    pub(super) fn measure(&self, study: &Study<'_>, adapter: Option<&Adapter>, stop: &AtomicBool) -> Result<Measured> {
        let (exact, f1) = self.answers(study, adapter, stop)?;
        let mut values = vec![Some(exact), Some(f1)];
        for samples in &self.texts {
            go_on(stop)?;
            values.push(nll(study, adapter, samples)?);
        }
        go_on(stop)?;
        values.extend(self.tasks(study, adapter)?);
        Ok(Measured::new(values))
    }

    /// MSE over the train mean's of a ridge on the model's hidden states of gene names, and AUROC
    /// of pairs by them.
    fn tasks(&self, study: &Study<'_>, adapter: Option<&Adapter>) -> Result<[Option<f64>; 2]> {
        let mut genes = self.pairs.genes();
        genes.extend(self.fitness.genes());
        genes.sort_unstable();
        genes.dedup();
        let texts: Vec<String> = genes.iter().map(|gene| profile::name(study.genome, *gene)).collect();
        let mut values = Vec::new();
        embed(study.device, study.model, adapter, &texts, |_, vector| {
            values.extend_from_slice(vector);
        })?;
        let width = study.model.config.hidden_size;
        let set = [GeneVectors::new("model", false, &genes, Features::Dense { width, values })];
        let options = Options { redraws: 0, ..Options::default() };
        let fitness = self.fitness.run(study.genome, &set, options)?;
        let pairs = self.pairs.run(study.genome, &set, options)?;
        Ok([fitness.value(&["model", "ridge"], "MSE / train mean"), pairs.value(&["model"], "AUROC")])
    }

    fn answers(&self, study: &Study<'_>, adapter: Option<&Adapter>, stop: &AtomicBool) -> Result<(f64, f64)> {
        let answerer = Answerer::new(study.device, study.model, adapter)?;
        let (mut exact, mut f1) = (0.0, 0.0);
        for (question, sentence) in &self.questions {
            go_on(stop)?;
            let (truth, found) = (claim(sentence), answerer.answer(question, "", 48)?);
            let found = claim(found.lines().next().unwrap_or(""));
            exact += f64::from(words(truth) == words(found));
            f1 += token_f1(truth, found);
        }
        let count = self.questions.len().max(1) as f64;
        Ok((exact / count, f1 / count))
    }
}

/// What a sentence says of its subject: the words after its first "is", which the form alone does
/// not give away.
fn claim(sentence: &str) -> &str {
    sentence.split_once(" is ").map_or(sentence, |(_, claim)| claim).trim().trim_end_matches('.')
}

/// F1 of words, each counted as often as it occurs.
fn token_f1(truth: &str, found: &str) -> f64 {
    let (truth, mut found) = (words(truth), words(found));
    let total = truth.len() + found.len();
    let mut shared = 0;
    for word in &truth {
        if let Some(place) = found.iter().position(|other| other == word) {
            found.swap_remove(place);
            shared += 1;
        }
    }
    if shared == 0 { 0.0 } else { 2.0 * f64::from(shared) / total as f64 }
}

fn nll(study: &Study<'_>, adapter: Option<&Adapter>, samples: &[Sample]) -> Result<Option<f64>> {
    let Some(longest) = samples.iter().map(|sample| sample.tokens.len()).max() else {
        return Ok(None);
    };
    let tokens = longest.max(1024);
    let bounds = BatchBounds { tokens, trained: tokens, samples: tokens };
    let options = RunnerOptions { capacity: bounds.into(), max_length: tokens };
    let mut runner = Runner::new(study.device, study.model, adapter, options).map_err(BioError::model)?;
    let loss = LossConfig { kind: LossKind::Sft, ..LossConfig::default() };
    let report = pollster::block_on(evaluate(&mut runner, samples, bounds, loss, |_| ())).map_err(BioError::model)?;
    Ok(Some(report.nll))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_earns_nothing() {
        assert_eq!(claim("The full name of TP53 is tumor protein p53."), "tumor protein p53");
        assert_eq!(token_f1("tumor protein p53", "tumor protein p53"), 1.0);
        assert_eq!(token_f1("tumor protein p53", "protein kinase"), 2.0 / 5.0);
        assert_eq!(token_f1("tumor protein", ""), 0.0);
    }
}
