//! `bft eval`: NLL, perplexity and every loss on a data file; and how its answers compare with the
//! model's own.

mod answers;

use std::path::PathBuf;

use answers::Compared;
use bft_core::device::Device;
use bft_core::{Base, LossKind};
use bft_formats::Adapter;
use bft_train::{BatchBounds, EvalReport, Note, Samples, TrainConfig, evaluate};
use clap::Args;

use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, at_least, takes};
use crate::generate::Sampling;
use crate::open;
use crate::ui::{self, Progress, thousands};

/// Measure NLL, perplexity and every loss on a data file, and answers that the model writes
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft eval --model SmolLM2-135M-Instruct.Q4_1.gguf --data heldout.jsonl
  bft eval --model ./Qwen3-0.6B --adapter tuned --data heldout.jsonl --group-size 32 --json
  bft eval --model ./Qwen3-0.6B --adapter tuned --data heldout.jsonl --metric exact,f1,rouge --max-new-tokens 64

The losses are means over the whole file as one batch; nll and perplexity are over its trained tokens.
--metric has the model answer each row's question, the likeliest token at a time unless --temperature says otherwise,
and compares with the row's answer (of a chat, its last): exact match and F1 of words as SQuAD defines them, F1 of
ROUGE-L as rouge-score counts it with stemming; means over rows with 95 % intervals.")]
pub struct EvalFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub
    #[arg(long, value_name = "PATH", help_heading = "Model and data")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub adapter: Vec<PathBuf>,
    /// Rows: JSONL, JSON, CSV, TSV or Parquet, as they are or as .gz or .zst; more than once, or a
    /// pattern in quotes, for several files
    #[arg(long, value_name = "FILE", required = true, help_heading = "Model and data")]
    pub data: Vec<PathBuf>,
    #[command(flatten)]
    pub settings: Flags<Measured>,
    #[command(flatten)]
    pub sampled: Flags<Sampled>,
    /// Have the model answer each row, and measure its answers; several between commas
    #[arg(long, value_enum, value_name = "METRIC", value_delimiter = ',', help_heading = "Answers")]
    pub metric: Vec<answers::Metric>,
    /// Redraws of the rows for the 95 % intervals
    #[arg(long, value_name = "TIMES", default_value_t = 1000, requires = "metric", value_parser = at_least(0), help_heading = "Answers")]
    pub redraws: usize,
    /// Answers that are written at once [default: 16, or what memory takes]
    #[arg(long, value_name = "TEXTS", requires = "metric", value_parser = at_least(1), help_heading = "Answers")]
    pub batch_size: Option<usize>,
    #[command(flatten)]
    pub sampling: Flags<Sampling>,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

takes!(
    /// What samples are made of rows and what their losses are.
    Measured: TrainConfig = columns, max_length, truncate, skip_bad_rows, template_vars, group_size, gamma,
        weight_floor, gce_q
);
takes!(
    /// Which rows are measured.
    Sampled: TrainConfig = max_samples, sample_seed
);

/// Runs `bft eval`.
pub fn run(flags: &EvalFlags) -> Result<(), CliError> {
    answers::check(flags)?;
    open::files("--data", &flags.data)?;
    open::adapters_exist(&flags.adapter)?;
    let model = open::model(&flags.model, flags.load.quantize)?;
    let adapter = open::adapter(&flags.adapter, &model)?;
    if flags.sampled.given("sample_seed") && flags.sampled.max_samples.is_none() {
        ui::warn(&Note::SeedUnused.to_string());
    }
    let (max_samples, sample_seed) = (flags.sampled.max_samples, flags.sampled.sample_seed);
    let rows = open::rows(&flags.data, &TrainConfig { max_samples, sample_seed, ..(*flags.settings).clone() })?;
    let quiz = answers::asked(flags, &model, &rows)?;
    let samples = open::make_samples(&model, rows, &flags.settings.samples())?;
    let device = open::device(flags.run.device())?;
    let adapter = adapter.as_ref();
    let planned = quiz.as_ref().map(|quiz| quiz.plan(&device, adapter)).transpose()?;
    flags.kernels.apply(&device, true);
    let base = Base::load(&device, &model).map_err(CliError::failed)?;
    let report = losses(flags, &samples, &device, &base, adapter)?;
    let answers = match (quiz, planned) {
        (Some(quiz), Some(planned)) => Some(quiz.answer(&device, adapter, &base, planned)?),
        _ => None,
    };
    show(flags, &report, answers.as_ref())
}

/// NLL and the losses of the samples.
fn losses(
    flags: &EvalFlags,
    samples: &Samples,
    device: &Device,
    base: &Base,
    adapter: Option<&Adapter>,
) -> Result<EvalReport, CliError> {
    let bounds = bounds(samples);
    let mut scorer = open::scorer_on(device, base, adapter, bounds)?;
    let mut progress = Progress::new("evaluating", "samples", samples.samples.len() as u64, 0);
    let report = pollster::block_on(evaluate(&mut scorer, &samples.samples, bounds, flags.settings.loss(), |done| {
        progress.at(done as u64, "")
    }))
    .map_err(CliError::failed)?;
    progress.finish();
    Ok(report)
}

fn show(flags: &EvalFlags, report: &EvalReport, answers: Option<&Compared>) -> Result<(), CliError> {
    if flags.json {
        let mut found = serde_json::to_value(report).map_err(CliError::failed)?;
        if let Some(answers) = answers {
            found["answers"] = answers.json();
        }
        return ui::json(&found);
    }
    for (name, value) in [
        ("nll", format!("{:.6}", report.nll)),
        ("perplexity", format!("{:.4}", report.perplexity)),
        ("tokens", thousands(report.tokens as u64)),
        ("samples", thousands(report.samples as u64)),
    ] {
        ui::result(&format!("{name:<12} {value}"))?;
    }
    for kind in LossKind::ALL {
        ui::result(&format!("{:<12} {:.6}", format!("{kind} loss"), report.loss.of(kind)))?;
    }
    answers.map_or(Ok(()), Compared::show)
}

/// Large enough that products are efficient, small enough that memory stays modest.
const BATCH_TOKENS: usize = 1024;

/// Sizes of a packed batch: the longest sample always fits.
fn bounds(samples: &Samples) -> BatchBounds {
    let tokens = samples.report.longest.max(BATCH_TOKENS.min(samples.report.tokens));
    BatchBounds { tokens, trained: tokens, samples: tokens.min(samples.samples.len()) }
}
