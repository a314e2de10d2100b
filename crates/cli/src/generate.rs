//! `bft generate`: text from a prompt.

use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::flags::{RunFlags, at_least, not_negative, share};

/// Generate text from a prompt
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt 'What does TP53 do?'
  bft generate --model ./Qwen3-0.6B --adapter tuned --prompt 'What is p53?' --temperature 0.7
  bft generate --model m.gguf --no-chat-template --prompt 'The gene TP53 encodes' --json
  cat question.txt | bft generate --model m.gguf --prompt -")]
pub struct GenerateFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// The prompt; `-` reads it from standard input
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        help_heading = "Text"
    )]
    pub prompt: String,
    /// System message put before the prompt, where the chat template has a place for one
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "no_chat_template",
        help_heading = "Text"
    )]
    pub system: Option<String>,
    /// Give the model the prompt as it stands, not as a user's turn in its chat template
    #[arg(long, help_heading = "Text")]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Print one JSON object when all is done, instead of text as it comes
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// How tokens are chosen and when to stop.
#[derive(Debug, Clone, Copy, Args)]
pub struct SamplingFlags {
    /// Stop after this many new tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(1), help_heading = "Sampling")]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; higher is more varied
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, value_parser = not_negative, help_heading = "Sampling")]
    pub temperature: f32,
    /// Keep the fewest tokens whose probabilities reach this sum; 1 = off
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, help_heading = "Sampling")]
    pub top_p: f32,
    /// Keep this many likeliest tokens; 0 = off
    #[arg(long, value_name = "TOKENS", default_value_t = 0, value_parser = at_least(0), help_heading = "Sampling")]
    pub top_k: usize,
    /// Keep tokens at least this many times as likely as the likeliest; 0 = off
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = crate::flags::chance, help_heading = "Sampling")]
    pub min_p: f32,
    /// Seed of the random choice
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        help_heading = "Sampling"
    )]
    pub seed: u64,
}

/// Runs `bft generate`.
pub fn run(_flags: &GenerateFlags) -> Result<(), CliError> {
    Err(CliError::failed("not wired yet"))
}
