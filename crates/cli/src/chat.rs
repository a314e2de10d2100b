//! `bft chat`: a conversation on the terminal.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use bft_core::Runner;
use bft_formats::{Conversation, Message};
use bft_train::{SampleOptions, TextEncoder};
use clap::Args;

use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, Template, at_least};
use crate::generate::{Sampling, as_value, chat_tokens, messages};
use crate::open;
use crate::ui::{self, DIM};
use crate::writer;

/// Talk with a model
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft chat --model SmolLM2-135M-Instruct.Q4_1.gguf
  bft chat --model ./Qwen3-0.6B --adapter tuned --system 'Answer in one sentence.'
  printf 'Hello\\nWhat is DNA?\\n' | bft chat --model m.gguf --json

One line is one turn. /reset forgets the conversation; /quit or Ctrl-D ends it.")]
pub struct ChatFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Vec<PathBuf>,
    /// System message at the start of the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Text")]
    pub system: Option<String>,
    /// Longest conversation in tokens [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Text")]
    pub max_length: Option<usize>,
    #[command(flatten)]
    pub template: Flags<Template>,
    #[command(flatten)]
    pub sampling: Flags<Sampling>,
    /// Print each answer as one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft chat`.
pub fn run(flags: &ChatFlags) -> Result<(), CliError> {
    open::adapters_exist(&flags.adapter)?;
    let model = open::model(&flags.model, flags.load.quantize)?;
    open::note_generation(&model.path);
    let adapter = open::adapter(&flags.adapter, &model)?;
    let text = TextEncoder::new(&model).with_template_vars(&flags.template.template_vars).map_err(CliError::failed)?;
    let tokenizer = text.tokenizer().map_err(CliError::failed)?;
    let options = SampleOptions { max_length: flags.max_length, ..SampleOptions::default() };
    let max_length = options.limit(&model).map_err(CliError::failed)?;
    // Says at once if there is no template.
    chat_tokens(&model, &text, &messages(flags.system.as_deref(), "Hello".to_owned()))?;
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let options = open::generation(max_length, max_length, 1);
    let runner = Runner::new(&device, &model, adapter.as_ref(), options).map_err(CliError::failed)?;
    let mut answers = writer::begin(&runner, &model, adapter.as_ref(), tokenizer, &flags.sampling, max_length)?;

    let interactive = io::stdin().is_terminal();
    if interactive {
        ui::note(&format!("{DIM}/reset forgets the conversation; /quit or Ctrl-D ends it{DIM:#}"));
    }
    let mut conversation = Conversation::default();
    let mut lines = io::stdin().lines();
    loop {
        if interactive {
            ui::ask("> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|error| CliError::failed(format!("standard input cannot be read: {error}")))?;
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                conversation = Conversation::default();
                continue;
            }
            _ => {}
        }
        if conversation.messages.is_empty() {
            conversation = messages(flags.system.as_deref(), line);
        } else {
            conversation.messages.push(Message::new("user", line));
        }
        let prompt = chat_tokens(&model, &text, &conversation)?;
        if prompt.len() >= max_length {
            let problem = format!(
                "the conversation has {} tokens, --max-length is {max_length}: /reset begins a new one",
                prompt.len()
            );
            if !interactive {
                return Err(CliError::failed(problem));
            }
            ui::warn(&problem);
            conversation.messages.pop();
            continue;
        }
        let written = writer::go_on(&mut answers, &prompt, !flags.json)?;
        if flags.json {
            ui::json(&as_value(&written))?;
        } else {
            ui::result("")?;
        }
        conversation.messages.push(Message::new("assistant", written.text));
    }
    Ok(())
}
