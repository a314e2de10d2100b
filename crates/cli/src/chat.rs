//! `bft chat`: a conversation on the terminal.

use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::flags::RunFlags;
use crate::generate::SamplingFlags;

/// Talk with a model
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft chat --model SmolLM2-135M-Instruct.Q4_1.gguf
  bft chat --model ./Qwen3-0.6B --adapter tuned --system 'Answer in one sentence.'
  printf 'Hello\\nWhat is DNA?\\n' | bft chat --model m.gguf --json

One line is one turn. /reset forgets the conversation; /quit or Ctrl-D ends it.")]
pub struct ChatFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// System message at the start of the conversation
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help_heading = "Text"
    )]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Print each answer as one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft chat`.
pub fn run(_flags: &ChatFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
