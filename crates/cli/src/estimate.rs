//! `bft estimate`: the memory a training run will need, before it starts.

use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::flags::{LoraFlags, RunFlags, at_least};
use crate::train::CheckpointFlag;

/// Tell how much memory a training run will need
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft estimate --model SmolLM2-135M-Instruct.Q4_1.gguf --batch-size 4 --max-length 256
  bft estimate --model ./Qwen3-0.6B --rank 32 --batch-size 8 --max-length 1024 --json

The figures are for the largest micro-batch: --batch-size samples of --max-length tokens,
all of them trained.")]
pub struct EstimateFlags {
    /// A folder with config.json and *.safetensors, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    #[command(flatten)]
    pub lora: LoraFlags,
    /// Samples in a micro-batch
    #[arg(long, value_name = "SAMPLES", default_value_t = 4, value_parser = at_least(1), help_heading = "Length")]
    pub batch_size: usize,
    /// Longest sample in tokens [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Length")]
    pub max_length: Option<usize>,
    /// Keep few activations and compute the rest again
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = CheckpointFlag::Auto, help_heading = "Run")]
    pub checkpoint_activations: CheckpointFlag,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft estimate`.
pub fn run(_flags: &EstimateFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
