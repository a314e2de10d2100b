//! `bft eval`: NLL, perplexity and all four losses on a data file.

use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::flags::{DataFlags, GroupFlags, RunFlags};

/// Measure NLL, perplexity and all four losses on a data file
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft eval --model SmolLM2-135M-Instruct.Q4_1.gguf --data heldout.jsonl
  bft eval --model ./Qwen3-0.6B --adapter tuned --data heldout.jsonl --group-size 32 --json

The losses are means over the whole file as one batch; nll and perplexity are over its trained tokens.")]
pub struct EvalFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model and data")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub adapter: Option<PathBuf>,
    /// Rows, JSONL or a JSON array
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: PathBuf,
    #[command(flatten)]
    pub data_flags: DataFlags,
    #[command(flatten)]
    pub group: GroupFlags,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft eval`.
pub fn run(_flags: &EvalFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
