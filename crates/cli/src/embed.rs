//! `bft embed`: text embeddings from the hidden state after the final norm.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::error::CliError;
use crate::flags::{RunFlags, at_least};

/// Turn texts into vectors
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft embed --model SmolLM2-135M-Instruct.Q4_1.gguf --input genes.txt --output genes.npy
  bft embed --model ./Qwen3-0.6B --adapter tuned --input rows.jsonl --output rows.parquet --normalize

Input: lines of text, or JSONL rows with text or input_ids, and an id if you like.
The output's ending chooses its format: .jsonl, .npy, .safetensors or .parquet.")]
pub struct EmbedFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Lines of text, or JSONL rows
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub input: PathBuf,
    /// File to write; its ending chooses the format
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub output: PathBuf,
    /// How a text's hidden states become one vector
    #[arg(long, value_enum, default_value_t = PoolingFlag::Mean, help_heading = "Text and vectors")]
    pub pooling: PoolingFlag,
    /// Scale vectors to length 1
    #[arg(long, help_heading = "Text and vectors")]
    pub normalize: bool,
    /// Longest text in tokens [default: the model's context]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(1), help_heading = "Text and vectors")]
    pub max_length: Option<usize>,
    /// Cut longer texts instead of stopping
    #[arg(long, help_heading = "Text and vectors")]
    pub truncate: bool,
    /// Texts computed together, at most
    #[arg(long, value_name = "TEXTS", default_value_t = 16, value_parser = at_least(1), help_heading = "Run")]
    pub batch_size: usize,
    /// Print a JSON summary
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// `--pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingFlag {
    /// the mean over all tokens
    Mean,
    /// the last token's
    Last,
}

/// Runs `bft embed`.
pub fn run(_flags: &EmbedFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
