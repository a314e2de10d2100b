//! `bft estimate`: the memory a training run will need, before it starts.

use std::path::PathBuf;

use bft_core::{Capacity, Checkpoint, TunerOptions};
use bft_formats::Tokenizer;
use bft_train::{MemoryEstimate, Settings, TrainConfig, estimate_memory, new_adapter};
use clap::Args;
use serde_json::json;

use crate::error::CliError;
use crate::flags::{Flags, Quantize, RunFlags, takes};
use crate::memory;
use crate::open;
use crate::ui::{self, BOLD, bytes, table, thousands};

/// Tell how much memory a training run will need
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft estimate --model SmolLM2-135M-Instruct.Q4_1.gguf --batch-size 4 --max-length 256
  bft estimate --model ./Qwen3-0.6B --rank 32 --batch-size 8 --max-length 1024 --json

The figures are for the largest micro-batch: --batch-size samples of --max-length tokens,
all of them trained.")]
pub struct EstimateFlags {
    /// A folder with config.json and *.safetensors, a .gguf file, or OWNER/NAME on the hub
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    #[command(flatten)]
    pub settings: Flags<Sizes>,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub run: RunFlags,
}

takes!(
    /// What memory depends on.
    Sizes: TrainConfig = max_length, rank, alpha, use_dora, lora_init, target_modules, lora_dropout, batch_size, checkpoint_activations,
        kl_weight
);

/// Runs `bft estimate`.
pub fn run(flags: &EstimateFlags) -> Result<(), CliError> {
    let model = open::model(&flags.model, flags.load.quantize)?;
    let program = program_bytes(model.tokenizer.as_ref())?;
    let settings = &flags.settings;
    let batch_size = settings.batch_size;
    let max_length = settings.samples().limit(&model).map_err(CliError::failed)?;
    let adapter = new_adapter(&model.config, &model.name, settings).map_err(CliError::failed)?;
    let tokens = batch_size.saturating_mul(max_length);
    let options = |checkpoint| TunerOptions {
        capacity: Capacity { tokens, trained: tokens, samples: batch_size },
        max_length,
        checkpoint,
        seed: 0,
        frozen_half: settings.starts_as_pissa(),
        anchored: settings.kl_weight > 0.0,
    };
    let values = settings.trained_values(&adapter) as u64;
    let estimate = |checkpoint| estimate_memory(&model, &adapter, options(checkpoint)).map_err(CliError::failed);
    let (off, on) = (estimate(Checkpoint::Off)?, estimate(Checkpoint::On)?);
    let chosen = estimate(settings.checkpoint_activations)?;
    let total = |estimate: MemoryEstimate| estimate.total_bytes + program;

    if flags.json {
        return ui::json(&json!({
            "model": model.name,
            "batch_size": batch_size,
            "max_length": max_length,
            "tokens": tokens,
            "trained_values": values,
            "model_bytes": chosen.model_bytes,
            "adapter_bytes": chosen.adapter_bytes,
            "activation_bytes": chosen.activation_bytes,
            "program_bytes": program,
            "total_bytes": total(chosen),
            "checkpoints_activations": chosen.checkpoints_activations,
            "total_bytes_checkpoint_off": total(off),
            "total_bytes_checkpoint_on": total(on),
        }));
    }
    let row = |name: &str, off: u64, on: u64| vec![name.to_owned(), bytes(off), bytes(on)];
    ui::result(&format!(
        "{BOLD}{}{BOLD:#}  {} samples of {max_length} tokens, rank {}: {} trained values",
        model.name,
        batch_size,
        settings.rank,
        thousands(values)
    ))?;
    ui::result(&table(&[
        ["--checkpoint-activations", "off", "on"].map(str::to_owned).to_vec(),
        row("frozen model, as it is loaded", off.model_bytes, on.model_bytes),
        row("adapter, gradient and moments", off.adapter_bytes, on.adapter_bytes),
        row("activations and work space", off.activation_bytes, on.activation_bytes),
        row("the program and its tokenizer", program, program),
        row("in all", total(off), total(on)),
    ]))?;
    ui::result(&format!(
        "--checkpoint-activations {} takes {} ({})",
        settings.to_map()["checkpoint-activations"].as_str().unwrap_or_default(),
        bytes(total(chosen)),
        if chosen.checkpoints_activations { "on" } else { "off" }
    ))
}

/// What the program holds with its tokenizer, beside what planning counts: what this process holds
/// as it is called, with the model open and nothing on a device; 0 where the system does not tell.
pub fn program_bytes(tokenizer: Option<&Tokenizer>) -> Result<u64, CliError> {
    if let Some(tokenizer) = tokenizer {
        // It makes its tables at the first text.
        let text = "One text, 2 signs, 3 words…";
        tokenizer.encode(text, true).map_err(CliError::failed)?;
    }
    memory::give_back();
    Ok(memory::resident_bytes().unwrap_or(0))
}
