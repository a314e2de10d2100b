//! Flags of `bft bench`.

use std::path::PathBuf;

use bft_train::TrainConfig;
use clap::{Args, ValueEnum};

use super::products;
use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, at_least, share, takes};
use crate::ui::thousands;

/// Measure tokens per second, GFLOP/s and peak memory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bench --model SmolLM2-135M-Instruct.Q4_1.gguf --task train --batch-size 4 --length 256
  bft bench --model m.gguf --task train --length 256 --trained-share 0.25  # the rest masked
  bft bench --model m.gguf --task train --lengths 256,64,32,16             # ragged samples
  bft bench --model m.gguf --task embed --batch-size 16 --length 128 --json
  bft bench --model all-MiniLM-L6-v2 --task embed --batch-size 64 --length 16
  bft bench --model m.gguf --task generate --batch-size 16 --length 128    # texts written together
  bft bench --task kernels --device gpu
  bft bench --model m.gguf --task products --device gpu  # a step's, as often as it calls them

With --serve, one step is run and one JSON line printed for every line read from standard
input, so that another program's steps can be timed in turn.")]
pub struct BenchFlags {
    /// A folder with config.json and *.safetensors, a .gguf file, or OWNER/NAME on the hub; not
    /// needed for --task kernels
    #[arg(long, value_name = "PATH", required_unless_present = "task", help_heading = "What")]
    pub model: Option<PathBuf>,
    /// What is measured
    #[arg(long, value_enum, default_value_t = Task::Train, help_heading = "What")]
    pub task: Task,
    /// Tokens in each sample; for generate, tokens made; for kernels, a sample's share of the
    /// tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(2), help_heading = "What")]
    pub length: usize,
    /// Tokens in each sample, one number a sample, instead of --batch-size and --length
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', value_parser = at_least(2), help_heading = "What")]
    pub lengths: Vec<usize>,
    /// Share of each sample that is trained, at its end
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, help_heading = "What")]
    pub trained_share: f64,
    /// Train on these rows, --batch-size of them a step, instead of on a text of bft's own
    #[arg(long, value_name = "FILE", help_heading = "What")]
    pub data: Option<PathBuf>,
    /// For --task products: the weights' formats
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = products::Weights::File, help_heading = "What")]
    pub weights: products::Weights,
    #[command(flatten)]
    pub settings: Flags<Benched>,
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
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

takes!(
    /// Settings of a run that a step depends on.
    Benched: TrainConfig = max_length, truncate, skip_bad_rows, template_vars, loss, group_size, gamma, rank, alpha,
        target_modules, lora_dropout, batch_size, checkpoint_activations
);

/// `--task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// a whole optimiser step
    Train,
    /// embeddings
    Embed,
    /// greedy generation with the KV cache, of one text or of --batch-size together
    Generate,
    /// single kernels at a model's sizes
    Kernels,
    /// the products of a step, each alone
    Products,
}

impl Task {
    pub fn name(self) -> &'static str {
        match self {
            Task::Train => "train",
            Task::Embed => "embed",
            Task::Generate => "generate",
            Task::Kernels => "kernels",
            Task::Products => "products",
        }
    }
}

/// More tokens than any machine takes in one step.
const MOST_TOKENS: usize = 1 << 24;

impl BenchFlags {
    /// Checks that a step can be made at all, before anything is made for it.
    pub fn check(&self) -> Result<(), CliError> {
        let tokens = match self.lengths[..] {
            [] => self.length.saturating_mul(self.settings.batch_size),
            ref lengths => lengths.iter().sum(),
        };
        if tokens <= MOST_TOKENS {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "{} tokens in a step, expected at most {}: use a smaller --batch-size or --length",
            thousands(tokens as u64),
            thousands(MOST_TOKENS as u64)
        )))
    }

    /// Tokens of each sample of a step; for generation, new ones of each text, one text unless more
    /// are asked for.
    pub fn lengths(&self) -> Vec<usize> {
        if !self.lengths.is_empty() {
            return self.lengths.clone();
        }
        let one = self.task == Task::Generate && !self.settings.given("batch_size");
        vec![self.length; if one { 1 } else { self.settings.batch_size }]
    }
}
