//! `bft inspect`: what is in a model, an adapter or a data file.

mod adapter;
mod data;
mod model;

use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::eval::Measured;
use crate::flags::{Flags, Quantize, RunFlags, at_least};
use crate::open;

/// Look into a model, an adapter or a data file
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft inspect --model SmolLM2-135M-Instruct.Q4_1.gguf
  bft inspect --adapter tuned
  bft inspect --model ./Qwen3-0.6B --data train.jsonl --rows 3 --group-size 32
  bft inspect --model ./Qwen3-0.6B --adapter tuned --data train.jsonl --json

With --data, every token is shown with its mask and with the weight that each loss gives it
under the model: as heat on a terminal, as a table elsewhere.")]
pub struct InspectFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub
    #[arg(long, value_name = "PATH", required_unless_present = "adapter", help_heading = "Model and data")]
    pub model: Option<PathBuf>,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub adapter: Option<PathBuf>,
    /// Rows, of whatever kind `bft train` takes; needs --model
    #[arg(long, value_name = "FILE", requires = "model", help_heading = "Model and data")]
    pub data: Vec<PathBuf>,
    /// Show this many rows of --data
    #[arg(long, value_name = "ROWS", default_value_t = 3, value_parser = at_least(1), help_heading = "Model and data")]
    pub rows: usize,
    /// Show rows of --data from this one on, counted from 1
    #[arg(long, value_name = "ROW", default_value_t = 1, value_parser = at_least(1), help_heading = "Model and data")]
    pub first_row: usize,
    #[command(flatten)]
    pub settings: Flags<Measured>,
    /// List every tensor, not one line a kind
    #[arg(long, help_heading = "Run")]
    pub all_tensors: bool,
    /// Show tokens as a table on a terminal too
    #[arg(long, help_heading = "Run")]
    pub table: bool,
    /// Print JSON: one object, or with --data one object a row
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft inspect`.
pub fn run(flags: &InspectFlags) -> Result<(), CliError> {
    if flags.model.is_some() {
        open::files("--data", &flags.data)?;
        open::adapters_exist(flags.adapter.as_slice())?;
    }
    let model = open::model_if_given(flags.model.as_deref(), flags.load.quantize)?;
    match (&model, &flags.data[..], &flags.adapter) {
        (Some(model), [_, ..], _) => {
            let rows = open::rows(&flags.data, &flags.settings)?;
            let adapter = open::adapter(flags.adapter.as_slice(), model)?;
            let device = open::device(flags.run.device())?;
            data::show(model, adapter.as_ref(), rows, &device, flags)
        }
        (model, [], Some(named)) => {
            let (folder, _) = open::scaled(named)?;
            if folder != *named {
                let (named, folder) = (named.display(), folder.display());
                return Err(CliError::usage(format!(
                    "--adapter {named}: a scale changes nothing of what is shown of an adapter: give --adapter {folder}"
                )));
            }
            adapter::show(&folder, model.as_ref(), flags.all_tensors, flags.json)
        }
        (Some(model), [], None) => model::show(model, flags.all_tensors, flags.json),
        (None, _, _) => Err(CliError::usage("--model <PATH> is missing; see bft inspect --help")),
    }
}
