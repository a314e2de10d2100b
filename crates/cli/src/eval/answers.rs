//! `bft eval --metric`: what the model answers, against what the rows answer.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bft_bio::stats::bootstrap::{self, Estimate};
use bft_bio::stats::{answers, rouge};
use bft_core::Base;
use bft_core::device::Device;
use bft_formats::{Adapter, Model};
use bft_train::{Reference, Rows, TextEncoder, Written, references};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::EvalFlags;
use crate::answering::{Answering, Planned};
use crate::error::CliError;
use crate::open;
use crate::ui::{self, Progress, thousands};
use crate::writer;

/// What is measured of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Metric {
    /// whether it is the row's answer, but for case, punctuation, articles and white space
    Exact,
    /// F1 of its words, treated likewise
    F1,
    /// F1 of ROUGE-L
    Rouge,
}

impl Metric {
    /// Its key in JSON, and its name in the table.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Exact => ("exact", "exact match"),
            Self::F1 => ("f1", "token F1"),
            Self::Rouge => ("rouge_l", "ROUGE-L"),
        }
    }

    /// 0 to 1.
    fn of(self, reference: &str, answer: &str) -> f64 {
        match self {
            Self::Exact => f64::from(answers::exact(reference, answer)),
            Self::F1 => answers::token_f1(reference, answer),
            Self::Rouge => rouge::rouge(reference, answer).l,
        }
    }
}

/// Refuses flags that mean nothing without `--metric`.
pub fn check(flags: &EvalFlags) -> Result<(), CliError> {
    let named = ["max_new_tokens", "temperature", "top_p", "top_k", "min_p", "seed"];
    match named.into_iter().find(|field| flags.metric.is_empty() && flags.sampling.given(field)) {
        Some(field) => Err(CliError::usage(format!(
            "--metric <METRIC> is missing, which --{} needs: without it the model writes nothing; see bft eval --help",
            field.replace('_', "-")
        ))),
        None => Ok(()),
    }
}

/// The rows' questions and answers.
pub struct Quiz<'m> {
    flags: &'m EvalFlags,
    model: &'m Model,
    text: TextEncoder<'m>,
    rows: Vec<Reference>,
}

/// What was written and how near it came.
pub struct Compared {
    metrics: Vec<(Metric, Option<Estimate>)>,
    rows: usize,
    tokens: usize,
    seconds: f64,
}

/// Reads questions and answers off the rows, where they are asked for.
pub fn asked<'m>(flags: &'m EvalFlags, model: &'m Model, rows: &Rows) -> Result<Option<Quiz<'m>>, CliError> {
    if flags.metric.is_empty() {
        return Ok(None);
    }
    writer::note_unused(&flags.sampling);
    open::note_generation(&model.path);
    let text = TextEncoder::new(model).with_template_vars(&flags.settings.template_vars).map_err(CliError::failed)?;
    let context = model.config.max_position_embeddings;
    let found = references(&text, rows, context, flags.settings.skip_bad_rows).map_err(CliError::failed)?;
    if let Some(first) = found.1.first() {
        ui::warn(&format!("{} rows are not answered, the first because {first}", found.1.len()));
    }
    Ok(Some(Quiz { flags, model, text, rows: found.0 }))
}

impl Quiz<'_> {
    fn answering<'a>(&'a self, device: &'a Device, adapter: Option<&'a Adapter>) -> Answering<'a> {
        Answering { device, model: self.model, adapter, text: &self.text, sampling: &self.flags.sampling }
    }

    /// Plans the answers, before anything is computed.
    pub fn plan(&self, device: &Device, adapter: Option<&Adapter>) -> Result<Planned, CliError> {
        let longest = self.rows.iter().map(|row| row.prompt.len()).max().unwrap_or(1);
        self.answering(device, adapter).plan(longest, self.rows.len(), self.flags.batch_size)
    }

    /// Has the model answer, and measures its answers.
    pub fn answer(
        &self,
        device: &Device,
        adapter: Option<&Adapter>,
        base: &Base,
        planned: Planned,
    ) -> Result<Compared, CliError> {
        let mut metrics = self.flags.metric.clone();
        metrics.sort_unstable();
        metrics.dedup();
        let mut values = vec![Vec::new(); metrics.len()];
        let mut progress = Progress::new("answering", "rows", self.rows.len() as u64, 0);
        let (started, mut tokens) = (Instant::now(), 0);
        let sink = |row: u64, written: Written| {
            let reference = &self.rows[row as usize].answer;
            for (metric, values) in metrics.iter().zip(&mut values) {
                values.push(metric.of(reference, &written.text));
            }
            tokens += written.tokens.len();
            progress.at(row + 1, "");
            Ok(())
        };
        let prompts = (0u64..).zip(self.rows.iter().map(|row| row.prompt.clone()));
        let origin = |row: u64| &self.rows[row as usize].origin;
        // A signal ends the process: nothing here is kept for another start.
        let never = AtomicBool::new(false);
        self.answering(device, adapter).run(base, planned, prompts, origin, &never, sink)?;
        progress.finish();
        let (redraws, seed) = (self.flags.redraws, self.flags.sampling.seed);
        let estimates = values.iter().map(|values| bootstrap::mean(values, redraws, seed));
        let metrics = metrics.iter().copied().zip(estimates).collect();
        Ok(Compared { metrics, rows: self.rows.len(), tokens, seconds: started.elapsed().as_secs_f64() })
    }
}

impl Compared {
    /// As `--json` has it.
    pub fn json(&self) -> Value {
        let counts = [("rows", json!(self.rows)), ("tokens", json!(self.tokens)), ("seconds", json!(self.seconds))];
        let metrics = self.metrics.iter().map(|(metric, estimate)| (metric.names().0, json!(estimate)));
        Value::Object(counts.into_iter().chain(metrics).map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A line for each metric.
    pub fn show(&self) -> Result<(), CliError> {
        for (metric, estimate) in &self.metrics {
            let value = match estimate {
                Some(Estimate { value, range: Some((low, high)) }) => format!("{value:.4} [{low:.4}, {high:.4}]"),
                Some(Estimate { value, range: None }) => format!("{value:.4}"),
                None => "-".to_owned(),
            };
            ui::result(&format!("{:<12} {value}", metric.names().1))?;
        }
        let (rows, tokens) = (thousands(self.rows as u64), thousands(self.tokens as u64));
        let rate = self.tokens as f64 / self.seconds.max(1e-9);
        ui::note(&format!("{rows} answers of {tokens} tokens in {:.1} s, {rate:.1} tokens/s", self.seconds));
        Ok(())
    }
}
