//! `bft eval`: NLL, perplexity and every loss on a data file.

use std::path::PathBuf;

use bft_core::LossKind;
use bft_train::{BatchBounds, Note, Samples, TrainConfig, evaluate};
use clap::Args;

use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, takes};
use crate::open;
use crate::ui::{self, Progress, thousands};

/// Measure NLL, perplexity and every loss on a data file
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft eval --model SmolLM2-135M-Instruct.Q4_1.gguf --data heldout.jsonl
  bft eval --model ./Qwen3-0.6B --adapter tuned --data heldout.jsonl --group-size 32 --json

The losses are means over the whole file as one batch; nll and perplexity are over its trained tokens.")]
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
    open::files("--data", &flags.data)?;
    open::adapters_exist(&flags.adapter)?;
    let model = open::model(&flags.model, flags.load.quantize)?;
    let adapter = open::adapter(&flags.adapter, &model)?;
    if flags.sampled.given("sample_seed") && flags.sampled.max_samples.is_none() {
        ui::warn(&Note::SeedUnused.to_string());
    }
    let (max_samples, sample_seed) = (flags.sampled.max_samples, flags.sampled.sample_seed);
    let rows = open::rows(&flags.data, &TrainConfig { max_samples, sample_seed, ..(*flags.settings).clone() })?;
    let samples = open::make_samples(&model, rows, &flags.settings.samples())?;
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let bounds = bounds(&samples);
    let mut scorer = open::scorer(&device, &model, adapter.as_ref(), bounds)?;
    let mut progress = Progress::new("evaluating", "samples", samples.samples.len() as u64, 0);
    let report = pollster::block_on(evaluate(&mut scorer, &samples.samples, bounds, flags.settings.loss(), |done| {
        progress.at(done as u64, "")
    }))
    .map_err(CliError::failed)?;
    progress.finish();
    if flags.json {
        return ui::json(&serde_json::to_value(report).map_err(CliError::failed)?);
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
    Ok(())
}

/// Large enough that products are efficient, small enough that memory stays modest.
const BATCH_TOKENS: usize = 1024;

/// Sizes of a packed batch: the longest sample always fits.
fn bounds(samples: &Samples) -> BatchBounds {
    let tokens = samples.report.longest.max(BATCH_TOKENS.min(samples.report.tokens));
    BatchBounds { tokens, trained: tokens, samples: tokens.min(samples.samples.len()) }
}
