//! `bft train`: fine-tunes a LoRA adapter.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::error::CliError;
use crate::flags::{
    DataFlags, GroupFlags, LoraFlags, Loss, RunFlags, at_least, not_negative, positive,
};

/// Fine-tune a LoRA adapter with BFT, DFT or plain cross-entropy
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft train --model SmolLM2-135M-Instruct.Q4_1.gguf --data train.jsonl --output tuned
  bft train --model ./Qwen3-0.6B --data train.jsonl --output tuned --group-size 32 --epochs 3
  bft train --config run.toml --lr 1e-4     # the file's flags, but another learning rate
  bft train --output tuned --resume         # goes on where a run in `tuned` stopped

Rows are JSONL or a JSON array: messages, conversations, instruction/input/output,
prompt/completion, text, or input_ids/labels.
Ctrl-C saves and stops; a second Ctrl-C stops at once.")]
pub struct TrainFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model and data")]
    pub model: PathBuf,
    /// Training rows, JSONL or a JSON array
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: PathBuf,
    /// Folder for the adapter, metrics.jsonl, run.json and checkpoints/
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub output: PathBuf,
    /// Rows to evaluate on, in training and at its end
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub eval_data: Option<PathBuf>,
    #[command(flatten)]
    pub data_flags: DataFlags,

    /// Balanced (bft, bft-v3), token-weighted (dft) or plain cross-entropy (sft)
    #[arg(long, value_enum, default_value_t = Loss::Bft, help_heading = "Loss")]
    pub loss: Loss,
    #[command(flatten)]
    pub group: GroupFlags,

    /// Start from this adapter instead of a new one
    #[arg(long, value_name = "DIR", help_heading = "Adapter")]
    pub init_adapter: Option<PathBuf>,
    #[command(flatten)]
    pub lora: LoraFlags,

    /// Learning rate at its highest
    #[arg(long, value_name = "NUMBER", default_value_t = 2e-4, value_parser = positive, help_heading = "Optimizer")]
    pub lr: f32,
    /// How the learning rate goes after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleFlag::Cosine, help_heading = "Optimizer")]
    pub schedule: ScheduleFlag,
    /// Steps over which the learning rate rises from 0
    #[arg(long, value_name = "STEPS", default_value_t = 0, value_parser = at_least(0), help_heading = "Optimizer")]
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW
    #[arg(long, value_name = "NUMBER", default_value_t = 0.01, value_parser = not_negative, help_heading = "Optimizer")]
    pub weight_decay: f32,
    /// Longer gradients are shortened to this norm; 0 = off
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = not_negative, help_heading = "Optimizer")]
    pub max_grad_norm: f32,

    /// Samples in a micro-batch
    #[arg(long, value_name = "SAMPLES", default_value_t = 4, value_parser = at_least(1), help_heading = "Length")]
    pub batch_size: usize,
    /// Micro-batches in an optimizer step
    #[arg(long, value_name = "BATCHES", default_value_t = 1, value_parser = at_least(1), help_heading = "Length")]
    pub grad_accum: usize,
    /// Optimizer steps to take
    #[arg(long, value_name = "STEPS", value_parser = at_least(1), conflicts_with = "epochs", help_heading = "Length")]
    pub steps: Option<usize>,
    /// Passes over the data [default: 1, unless --steps is given]
    #[arg(long, value_name = "PASSES", value_parser = at_least(1), help_heading = "Length")]
    pub epochs: Option<usize>,
    /// Take rows in file order
    #[arg(long, help_heading = "Length")]
    pub no_shuffle: bool,
    /// Seed of LoRA's start, of dropout and of the order of rows
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        help_heading = "Length"
    )]
    pub seed: u64,

    /// Steps between evaluations on --eval-data [default: before the first and after the last step]
    #[arg(long, value_name = "STEPS", value_parser = at_least(1), requires = "eval_data", help_heading = "Run")]
    pub eval_every: Option<usize>,
    /// Steps between checkpoints; one is always made at the end
    #[arg(long, value_name = "STEPS", default_value_t = 100, value_parser = at_least(1), help_heading = "Run")]
    pub save_every: usize,
    /// Go on from the newest checkpoint in --output; flags left out are taken from its run.json
    #[arg(long, help_heading = "Run")]
    pub resume: bool,
    /// Keep few activations and compute the rest again: less memory, more time
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = CheckpointFlag::Auto, help_heading = "Run")]
    pub checkpoint_activations: CheckpointFlag,
    /// Print a JSON summary on standard output at the end
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// `--schedule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleFlag {
    /// half a cosine, down to 0 at the last step
    Cosine,
    /// a straight line, down to 0 at the last step
    Linear,
    /// stays where it is
    Constant,
}

/// `--checkpoint-activations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointFlag {
    /// on where memory would not do otherwise
    Auto,
    /// always
    On,
    /// never
    Off,
}

/// Runs `bft train`.
pub fn run(_flags: &TrainFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
