//! `bft bench`: how fast this machine trains, embeds and generates.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::error::CliError;
use crate::flags::{GroupFlags, LoraFlags, Loss, RunFlags, at_least, share};
use crate::train::CheckpointFlag;

/// Measure tokens per second, GFLOP/s and peak memory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bench --model SmolLM2-135M-Instruct.Q4_1.gguf --task train --batch-size 4 --length 256
  bft bench --model m.gguf --task train --length 256 --trained-share 0.25  # the rest masked
  bft bench --model m.gguf --task train --lengths 256,64,32,16             # ragged samples
  bft bench --model m.gguf --task embed --batch-size 16 --length 128 --json
  bft bench --task kernels --device gpu

With --serve, one step is run and one JSON line printed for every line read from standard
input, so that another program's steps can be timed in turn.")]
pub struct BenchFlags {
    /// A folder with config.json and *.safetensors, or a .gguf file; not needed for --task kernels
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "task",
        help_heading = "What"
    )]
    pub model: Option<PathBuf>,
    /// What is measured
    #[arg(long, value_enum, default_value_t = Task::Train, help_heading = "What")]
    pub task: Task,
    /// Samples in a step
    #[arg(long, value_name = "SAMPLES", default_value_t = 4, value_parser = at_least(1), help_heading = "What")]
    pub batch_size: usize,
    /// Tokens in each sample; for generate, tokens made
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(2), help_heading = "What")]
    pub length: usize,
    /// Tokens in each sample, one number a sample, instead of --batch-size and --length
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', value_parser = at_least(2), help_heading = "What")]
    pub lengths: Vec<usize>,
    /// Share of each sample that is trained, at its end
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, help_heading = "What")]
    pub trained_share: f32,
    /// What is optimised
    #[arg(long, value_enum, default_value_t = Loss::Bft, help_heading = "Loss")]
    pub loss: Loss,
    #[command(flatten)]
    pub group: GroupFlags,
    #[command(flatten)]
    pub lora: LoraFlags,
    /// Keep few activations and compute the rest again
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = CheckpointFlag::Auto, help_heading = "Run")]
    pub checkpoint_activations: CheckpointFlag,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "STEPS", default_value_t = 5, value_parser = at_least(1), help_heading = "Run")]
    pub steps: usize,
    /// One step for every line of standard input
    #[arg(long, conflicts_with = "steps", help_heading = "Run")]
    pub serve: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// `--task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// a whole optimiser step
    Train,
    /// embeddings
    Embed,
    /// greedy generation with the KV cache
    Generate,
    /// single kernels at a model's sizes
    Kernels,
}

/// Runs `bft bench`.
pub fn run(_flags: &BenchFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
