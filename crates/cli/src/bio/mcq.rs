//! `bft bio mcq`: multiple choice by log-likelihood.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bft_bio::data::questions::{Question, Questions, ReadOptions, Reading, column_keys};
use bft_bio::tasks::mcq::{self, Arm, Form, Redraws, Scored};
use bft_core::{Base, Runner};
use bft_formats::{Adapter, Model};
use bft_train::{BatchBounds, Columns, Continuations, TextEncoder, log_likelihoods};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::error::CliError;
use crate::flags::{DeviceFlag, Flags, KernelFlags, Quantize, at_least};
use crate::open;
use crate::ui::{self, DIM, Progress, thousands};

/// Answer multiple-choice questions by log-likelihood, as lm-evaluation-harness scores them
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio mcq --model ./Qwen3-0.6B --data medqa/test.jsonl
  bft bio mcq --model ./Qwen3-0.6B --adapter tuned --data medmcqa/dev.json --output answers.jsonl
  bft bio mcq --model m.gguf --data test.jsonl --form letters --shots 5 --shots-from train.jsonl
  bft bio mcq --model m.gguf --data quiz.csv --columns question=stem,A=first,B=second,answer=key

Files are read as MedQA, MedMCQA and PubMedQA are published, and as rows of question, options (or choices, or a column
for each letter) and answer. With --adapter the base model answers the same questions, and the difference is shown
with its 95 % interval and McNemar's exact test. Prompts are texts, not turns of a chat template. Data are files of
this machine: download them first. Not for clinical use.")]
pub struct McqFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub
    #[arg(long, value_name = "PATH", help_heading = "Model and data")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub adapter: Vec<PathBuf>,
    /// Questions: JSONL, JSON, CSV, TSV or Parquet, as they are or as .gz or .zst; more than once,
    /// or a pattern in quotes, for several files, each of which gets its own rows in the table
    #[arg(long, value_name = "FILE", required = true, help_heading = "Model and data")]
    pub data: Vec<PathBuf>,
    /// question, options, answer, context, subject, id, A, B and so on with the columns, or keys, of
    /// yours that stand for them
    #[arg(long, value_name = "KEY=COLUMN", value_delimiter = ',', help_heading = "Model and data")]
    pub columns: Vec<String>,
    /// How answers name their option [default: as all rows of a file tell]
    #[arg(long, value_name = "HOW", value_parser = reading(), help_heading = "Model and data")]
    pub answers: Option<Reading>,
    /// Leave out rows that cannot be used, and count them
    #[arg(long, help_heading = "Model and data")]
    pub skip_bad_rows: bool,
    /// Ask no more than the first questions of each file
    #[arg(long, value_name = "QUESTIONS", value_parser = at_least(1), help_heading = "Model and data")]
    pub limit: Option<usize>,
    /// letters after a list of the options, or cloze, whole answers without a list [default: both]
    #[arg(long, value_name = "FORM", value_parser = form(), help_heading = "Questions")]
    pub form: Option<Form>,
    /// Show this many questions of --shots-from with their answers before each
    #[arg(long, value_name = "QUESTIONS", requires = "shots_from", value_parser = at_least(1), help_heading = "Questions")]
    pub shots: Option<usize>,
    /// The file whose first questions are shown
    #[arg(long, value_name = "FILE", requires = "shots", help_heading = "Questions")]
    pub shots_from: Option<PathBuf>,
    /// Seed of the intervals
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Run")]
    pub seed: u64,
    /// Redraws for the 95 % intervals
    #[arg(long, value_name = "TIMES", default_value_t = 1000, value_parser = at_least(0), help_heading = "Run")]
    pub redraws: usize,
    /// Write a line of JSON for each question here: log-likelihoods, what was chosen, what is right
    #[arg(long, short = 'o', value_name = "FILE", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// Print the tables as JSON
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten, next_help_heading = "Run")]
    pub run: DeviceFlag,
}

fn reading() -> impl TypedValueParser<Value = Reading> {
    let of = |word: String| Reading::ALL.into_iter().find(|it| it.word() == word).ok_or("no such word");
    PossibleValuesParser::new(Reading::ALL.map(Reading::word)).try_map(of)
}

fn form() -> impl TypedValueParser<Value = Form> {
    let of = |word: String| Form::ALL.into_iter().find(|it| it.word() == word).ok_or("no such word");
    PossibleValuesParser::new(Form::ALL.map(Form::word)).try_map(of)
}

/// Runs `bft bio mcq`.
pub fn run(flags: &McqFlags) -> Result<(), CliError> {
    let columns = Columns::of_keys(&flags.columns, &column_keys());
    let columns = columns.map_err(|problem| CliError::usage(format!("--columns: {problem}")))?;
    let files = open::files("--data", &flags.data)?;
    if let Some(path) = &flags.output {
        open::writable("--output", path)?;
        files.iter().try_for_each(|file| open::not_over(path, "--data", file))?;
        open::not_over(path, "--model", &flags.model)?;
    }
    open::adapters_exist(&flags.adapter)?;
    let options = ReadOptions { columns, reading: flags.answers, skip_bad_rows: flags.skip_bad_rows };
    let shots = shots(flags, &files, &options)?;
    let mut all = files.iter().map(|file| read(file, &options)).collect::<Result<Vec<_>, _>>()?;
    if let Some(limit) = flags.limit {
        all.iter_mut().for_each(|questions| questions.questions.truncate(limit));
    }
    let model = open::model(&flags.model, flags.load.quantize)?;
    let adapter = open::adapter(&flags.adapter, &model)?;
    let asked = asked(flags, &model, &all, shots.as_ref())?;
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let base = Base::load(&device, &model).map_err(CliError::failed)?;
    let arms = [("base", None)].into_iter().chain(adapter.as_ref().map(|adapter| ("adapter", Some(adapter))));
    let work = Work { device: &device, base: &base, asked: &asked };
    work.score(arms.collect(), &all).and_then(|(scored, speed)| show(flags, &scored, speed))
}

/// Reads a file, and says what was left out.
fn read(path: &Path, options: &ReadOptions) -> Result<Questions, CliError> {
    let found = Questions::read(path, options).map_err(CliError::failed)?;
    let (file, count) = (path.display(), thousands(found.questions.len() as u64));
    let (layout, by) = (found.layout, found.reading.word());
    ui::note(&format!("{DIM}{file}: {count} questions, laid out as {layout}, answers by {by}{DIM:#}"));
    if !found.ignored.names().is_empty() {
        ui::note(&format!("{DIM}{file}: keys that are not read: {}{DIM:#}", found.ignored.names().join(", ")));
    }
    if let Some(first) = found.skipped.first() {
        ui::warn(&format!("{file}: {} rows were skipped, the first because {first}", found.skipped.len()));
    }
    Ok(found)
}

/// The questions that are shown before others.
fn shots(flags: &McqFlags, data: &[PathBuf], options: &ReadOptions) -> Result<Option<Questions>, CliError> {
    let (Some(count), Some(path)) = (flags.shots, &flags.shots_from) else { return Ok(None) };
    open::readable("--shots-from", path)?;
    let same = |file: &PathBuf| matches!((file.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if data.iter().any(same) {
        return Err(CliError::failed(format!(
            "--shots-from {}: is also --data, so that questions would be asked whose answers were shown; name another file",
            path.display()
        )));
    }
    let mut found = read(path, options)?;
    let there = found.questions.len();
    if there < count {
        let path = path.display();
        return Err(CliError::failed(format!("--shots-from {path}: has {there} questions, --shots asks for {count}")));
    }
    found.questions.truncate(count);
    Ok(Some(found))
}

/// A file's questions in one form, as token ids.
struct Asked {
    file: usize,
    form: Form,
    questions: Vec<Continuations>,
}

/// Token ids of every question in every form.
fn asked(
    flags: &McqFlags,
    model: &Model,
    all: &[Questions],
    shots: Option<&Questions>,
) -> Result<Vec<Asked>, CliError> {
    let text = TextEncoder::new(model);
    let longest = model.config.max_position_embeddings;
    let mut asked = Vec::new();
    for (file, questions) in all.iter().enumerate() {
        for form in Form::ALL.into_iter().filter(|form| flags.form.is_none_or(|only| only == *form)) {
            let shown = shots.map(|shots| form.shots(&shots.questions, shots.layout)).unwrap_or_default();
            let one = |question: &Question| {
                let each = form.continuations(&text, &shown, question, questions.layout, longest)?;
                Ok::<_, bft_bio::BioError>(Continuations::new(&each, question.origin.clone()))
            };
            let questions = questions.questions.iter().map(one).collect::<Result<Vec<_>, _>>();
            asked.push(Asked { file, form, questions: questions.map_err(CliError::failed)? });
        }
    }
    Ok(asked)
}

/// What was computed, and how long it took.
struct Speed {
    tokens: usize,
    seconds: f64,
}

/// What questions are scored with.
struct Work<'w> {
    device: &'w bft_core::device::Device,
    base: &'w Base,
    asked: &'w [Asked],
}

impl Work<'_> {
    /// Has every arm answer every question.
    fn score<'q>(
        &self,
        arms: Vec<(&'static str, Option<&Adapter>)>,
        all: &'q [Questions],
    ) -> Result<(Vec<Scored<'q>>, Speed), CliError> {
        /// Large enough that products are efficient, small enough that memory stays modest.
        const BATCH_TOKENS: usize = 1024;
        let each = || self.asked.iter().flat_map(|asked| &asked.questions);
        let largest = each().map(Continuations::bounds).fold(BatchBounds::default(), BatchBounds::union);
        let tokens = largest.tokens.max(BATCH_TOKENS);
        let bounds = BatchBounds { tokens, trained: tokens.max(largest.trained), samples: tokens };
        let empty = |asked: &Asked| Scored { questions: &all[asked.file], form: asked.form, arms: Vec::new() };
        let mut scored: Vec<Scored<'q>> = self.asked.iter().map(empty).collect();
        let (count, of_arms) = (each().count(), arms.len());
        let mut progress = Progress::new("answering", "questions", (count * of_arms) as u64, 0);
        let (started, mut before) = (Instant::now(), 0);
        for (name, adapter) in arms {
            let mut runner: Runner<'_> = open::scorer_on(self.device, self.base, adapter, bounds)?;
            for (asked, scored) in self.asked.iter().zip(&mut scored) {
                let heard = |done: usize| progress.at((before + done) as u64, name);
                let found = log_likelihoods(&mut runner, &asked.questions, bounds, heard);
                let log_likelihoods = pollster::block_on(found).map_err(CliError::failed)?;
                scored.arms.push(Arm { name, log_likelihoods });
                before += asked.questions.len();
            }
        }
        progress.finish();
        let tokens = each().map(Continuations::tokens).sum::<usize>() * of_arms;
        Ok((scored, Speed { tokens, seconds: started.elapsed().as_secs_f64() }))
    }
}

/// Shows the tables and writes what was asked for.
fn show(flags: &McqFlags, scored: &[Scored<'_>], speed: Speed) -> Result<(), CliError> {
    let redraws = Redraws { times: flags.redraws, seed: flags.seed };
    let (table, subjects) = (mcq::report(scored, redraws), mcq::by_subject(scored, redraws));
    if let Some(path) = &flags.output {
        let of_file = |a: &Scored<'_>, b: &Scored<'_>| std::ptr::eq(a.questions, b.questions);
        let lines: String = scored.chunk_by(of_file).map(mcq::lines).collect();
        bft_formats::write_atomic(path, |out| out.write_all(lines.as_bytes())).map_err(CliError::failed)?;
        ui::note(&format!("a line for each question written to {}", path.display()));
    }
    let Speed { tokens, seconds } = speed;
    if flags.json {
        let (table, subjects) = (table.json(), subjects.json());
        return ui::json(&json!({ "table": table, "subjects": subjects, "tokens": tokens, "seconds": seconds }));
    }
    for (what, value) in &table.about {
        ui::note(&format!("{DIM}{what}: {value}{DIM:#}"));
    }
    let (many, rate) = (thousands(tokens as u64), tokens as f64 / seconds.max(1e-9));
    ui::note(&format!("{DIM}{many} tokens in {seconds:.1} s, {rate:.0} tokens/s{DIM:#}"));
    ui::result(&ui::table(&table.cells()))?;
    if !subjects.rows.is_empty() {
        ui::result(&format!("\n{}", ui::table(&subjects.cells())))?;
    }
    Ok(())
}
