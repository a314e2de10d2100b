//! `bft generate`: text from a prompt, or from every row of a file.

mod answers;
mod rows;

use std::io::{self, Read};
use std::path::PathBuf;

use bft_core::Runner;
use bft_formats::{Conversation, Message, Model};
use bft_train::{SamplingConfig, Setting, TextEncoder, Written};
use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, Takes, Template, at_least};
use crate::open;
use crate::ui::{self, DIM};
use crate::writer;

/// Generate text from a prompt, or from many
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt 'What does TP53 do?'
  bft generate --model ./Qwen3-0.6B --adapter tuned --prompt 'What is p53?' --temperature 0.7
  bft generate --model m.gguf --no-chat-template --prompt 'The gene TP53 encodes' --json
  cat question.txt | bft generate --model m.gguf --prompt -
  bft generate --model ./Qwen3-0.6B --adapter tuned --data prompts.jsonl --output answers.jsonl

Rows of --data: `prompt` (a text, taken as --prompt is, or turns), `messages`, `conversations`, or `instruction` with
`input`. Answers that are there already are left out of what is asked. A line of --output is the row with `generated`
added, in the order of the rows. Started again, a run that was stopped goes on after the last line; answers.run.json
says which run it is.")]
pub struct GenerateFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Vec<PathBuf>,
    /// The prompt; `-` reads it from standard input
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        required_unless_present = "data",
        conflicts_with = "data",
        help_heading = "Text"
    )]
    pub prompt: Option<String>,
    /// Rows with a prompt each: JSONL, a JSON array, CSV, TSV or Parquet, as they are or packed with
    /// gzip or zstd
    #[arg(long, value_name = "FILE", requires = "output", help_heading = "Text")]
    pub data: Option<PathBuf>,
    /// Where the answers to --data go, as JSONL
    #[arg(long, value_name = "FILE", requires = "data", help_heading = "Text")]
    pub output: Option<PathBuf>,
    /// System message put before the prompt, where the chat template has a place for one; rows of
    /// --data with a system turn keep theirs
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "no_chat_template",
        help_heading = "Text"
    )]
    pub system: Option<String>,
    /// Give the model the prompt as it stands, not as a user's turn in its chat template
    #[arg(long, conflicts_with = "template_vars", help_heading = "Text")]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub template: Flags<Template>,
    #[command(flatten)]
    pub sampling: Flags<Sampling>,
    /// Answers to --data that are written at once [default: 16, or what memory takes]
    #[arg(long, value_name = "TEXTS", requires = "data", value_parser = at_least(1), help_heading = "Run")]
    pub batch_size: Option<usize>,
    /// Print one JSON object when all is done, instead of text as it comes
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Every setting of how tokens are chosen.
#[derive(Debug, Clone)]
pub struct Sampling;

impl Takes for Sampling {
    type Settings = SamplingConfig;

    fn takes(_: &Setting) -> bool {
        true
    }
}

/// Runs `bft generate`.
pub fn run(flags: &GenerateFlags) -> Result<(), CliError> {
    match (&flags.prompt, &flags.data, &flags.output) {
        (Some(prompt), None, None) => one(flags, prompt),
        (None, Some(data), Some(output)) => rows::run(flags, data, output),
        _ => {
            Err(CliError::usage("give --prompt <TEXT>, or --data <FILE> with --output <FILE>; see bft generate --help"))
        }
    }
}

/// Answers one prompt.
fn one(flags: &GenerateFlags, prompt: &str) -> Result<(), CliError> {
    let prompt = match prompt {
        "-" => read_prompt()?,
        text => text.to_owned(),
    };
    open::adapters_exist(&flags.adapter)?;
    let model = open::model(&flags.model, flags.load.quantize)?;
    open::note_generation(&model.path);
    let adapter = open::adapter(&flags.adapter, &model)?;
    let text = TextEncoder::new(&model).with_template_vars(&flags.template.template_vars).map_err(CliError::failed)?;
    let tokens = text_tokens(flags, &model, &text, prompt)?;
    let tokenizer = text.tokenizer().map_err(CliError::failed)?;
    let context = model.config.max_position_embeddings;
    if tokens.len() >= context {
        return Err(CliError::failed(format!(
            "the prompt has {} tokens, expected fewer than {context}, the model's context: shorten it",
            tokens.len()
        )));
    }
    let max_length = context.min(tokens.len().saturating_add(flags.sampling.max_new_tokens));
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let options = open::generation(tokens.len(), max_length, 1);
    let runner = Runner::new(&device, &model, adapter.as_ref(), options).map_err(CliError::failed)?;
    let mut text = writer::begin(&runner, &model, adapter.as_ref(), tokenizer, &flags.sampling, max_length)?;
    let written = writer::go_on(&mut text, &tokens, !flags.json)?;
    if flags.json {
        ui::json(&as_value(&written))
    } else {
        ui::result("")?;
        ui::note(&format!("{DIM}{}{DIM:#}", writer::summary(&written)));
        Ok(())
    }
}

/// Tokens of a prompt that is a text.
fn text_tokens(
    flags: &GenerateFlags,
    model: &Model,
    text: &TextEncoder<'_>,
    prompt: String,
) -> Result<Vec<u32>, CliError> {
    if flags.no_chat_template {
        text.prompt(&prompt).map_err(CliError::failed)
    } else {
        chat_tokens(model, text, &messages(flags.system.as_deref(), prompt))
    }
}

/// What `--json` prints about a text.
pub fn as_value(written: &Written) -> Value {
    json!({
        "text": written.text,
        "tokens": written.tokens.len(),
        "finish_reason": written.finish,
    })
}

/// A conversation of one user's turn, after the system message if there is one.
pub fn messages(system: Option<&str>, prompt: String) -> Conversation {
    let system = system.map(|text| Message::new("system", text));
    system.into_iter().chain([Message::new("user", prompt)]).collect::<Vec<_>>().into()
}

/// Tokens of a conversation up to where the model's answer begins.
pub fn chat_tokens(model: &Model, text: &TextEncoder, conversation: &Conversation) -> Result<Vec<u32>, CliError> {
    if model.chat_template.is_none() {
        return Err(CliError::failed(format!(
            "model {} has no chat template: use `bft generate --no-chat-template`, which gives it the prompt as it stands",
            model.name
        )));
    }
    text.chat_prompt(conversation).map_err(CliError::failed)
}

fn read_prompt() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::failed(format!("--prompt -: standard input cannot be read: {error}")))?;
    // The line end that `echo` adds is not meant.
    Ok(text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text)).to_owned())
}
