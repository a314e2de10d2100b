//! `bft train`: fine-tunes a LoRA adapter.

mod report;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bft_formats::{Model, ModelConfig};
use bft_train::{Event, Finished, Plan, Setting, TrainConfig, Trainer, word_of};
use clap::Args;

use crate::cache;
use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, RunFlags, Takes};
use crate::memory;
use crate::open;
use crate::ranks::{self, Job};
use crate::stop;
use crate::ui::{self, DIM, bytes};
use report::TrainReport;

/// Fine-tune a LoRA adapter with BFT, DFT or plain cross-entropy
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft train --model SmolLM2-135M-Instruct.Q4_1.gguf --data train.jsonl --output tuned
  bft train --model ./Qwen3-0.6B --data train.jsonl --output tuned --group-size 32 --epochs 3
  bft train --model Qwen/Qwen3-0.6B --data train.jsonl --output tuned    # fetched from the hub, once
  bft train --config run.toml --lr 1e-4     # the file's flags, but another learning rate
  bft train --output tuned --resume         # goes on where a run in `tuned` stopped

  bft train --model ./Qwen3-0.6B --data 'rows/*.parquet' --columns prompt=question,completion=answer --val-size 0.05 \
    --output tuned

Rows are JSONL, a JSON array, CSV, TSV or Parquet, as they are or as .gz or .zst, with these keys or columns:
messages, conversations, instruction/input/output, prompt/completion, text, or input_ids/labels.
PEFT's AutoPeftModelForCausalLM loads the adapter over the folder of --model, whose path it records, or
its name and commit on the hub; over a GGUF file, load the base with transformers' gguf_file and the adapter with PeftModel.
Ctrl-C, SIGTERM and SIGHUP save and stop; a second one stops at once.")]
pub struct TrainFlags {
    #[command(flatten)]
    pub settings: Flags<EverySetting>,
    /// Print a JSON summary on standard output at the end
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Those of a run, but for two that other flags bring.
#[derive(Debug, Clone)]
pub struct EverySetting;

impl Takes for EverySetting {
    type Settings = TrainConfig;

    fn takes(setting: &Setting) -> bool {
        !["precision", "device"].contains(&setting.field)
    }
}

impl TrainFlags {
    /// The settings of the run.
    fn config(&self) -> TrainConfig {
        let (device, precision) = (*self.run.device(), self.kernels.precision());
        TrainConfig { device, precision, ..(*self.settings).clone() }
    }
}

/// Runs `bft train`.
pub fn run(flags: &TrainFlags) -> Result<(), CliError> {
    let stop = stop::on_signal()?;
    let job = ranks::job()?;
    let alone = job.is_none();
    let finished = match job {
        None => tune(flags, stop, None)?,
        Some(job) => job.run(|job| tune(flags, stop, Some(job)))?,
    };
    if flags.json {
        ui::json(&serde_json::to_value(&finished).map_err(CliError::failed)?)?;
    }
    if finished.stopped {
        let message = format!(
            "stopped after step {}; everything is saved, go on with: bft train --output {} --resume",
            finished.steps,
            shell_word(&flags.settings.output)
        );
        // A signal to one rank stops all, which are to end alike.
        return Err(if alone { CliError::stopped(message) } else { CliError::failed(message) });
    }
    Ok(())
}

/// The run itself, in this process alone or as a rank of a job.
fn tune(flags: &TrainFlags, stop: &'static AtomicBool, job: Option<&Job>) -> Result<Finished, CliError> {
    let mut config = flags.config();
    config.data = open::files("--data", &config.data)?;
    config.eval_data = config.eval_data.map(|paths| open::files("--eval-data", &paths)).transpose()?;
    let held_out = config.eval_data.iter().flat_map(|paths| paths.iter());
    let data = config.data.iter().map(|path| ("--data", path.as_path()));
    let data = data.chain(held_out.map(|path| ("--eval-data", path.as_path())));
    open::not_one_pipe(data.clone())?;
    if job.is_some() {
        data.clone().try_for_each(|(flag, path)| open::for_every_rank(flag, path))?;
    }
    if let (Some(path), false) = (&config.init_adapter, config.resume) {
        open::existing("--init-adapter", path)?;
    }
    open::writable_folder("--output", &config.output)?;
    let model = open::model(&config.model, config.quantize)?;
    if config.starts_as_pissa() && !config.resume {
        // Minutes, where the model is large.
        ui::note(&format!("{DIM}adapter: finding the principal part of each adapted weight{DIM:#}"));
    }
    let trainer = Trainer::open(config, &model).map_err(CliError::run)?;
    check_shape(&flags.settings, &trainer.plan().config, &model.config)?;
    let request = job.map_or(*flags.run.device(), |job| job.device(flags.run.device()));
    let device = open::device(&request)?;
    if !device.is_gpu() {
        let sharers = job.map_or(1, |job| job.here().1 as u64);
        check_memory(&trainer, &model, memory::available_bytes().map(|all| all / sharers))?;
    }
    let mut report = TrainReport::new();
    let mut first = true;
    let mut hear = |event| {
        if let Event::Started(_) = &event {
            // The adapter is on the device, and what it was made in is freed.
            memory::give_back();
        }
        if let Event::Step(_) = &event
            && std::mem::take(&mut first)
        {
            // Now, for a run may be long and its end sudden.
            cache::keep(&device);
        }
        report.event(event);
    };
    flags.kernels.apply(&device, job.is_none());
    let finished = match job {
        None => pollster::block_on(trainer.tune(&device, stop, &mut hear)),
        Some(job) => {
            warn_of_idle_ranks(job, trainer.plan());
            pollster::block_on(trainer.tune_together(&device, job, stop, &mut hear))
        }
    };
    report.close();
    finished.map_err(CliError::failed)
}

/// Refuses flags of an adapter's shape where the adapter of --init-adapter has another.
fn check_shape(asked: &Flags<EverySetting>, used: &TrainConfig, model: &ModelConfig) -> Result<(), CliError> {
    let modules = |config: &TrainConfig| config.modules(model).unwrap_or_default().join(",");
    for (field, asked_for, has) in [
        ("rank", asked.rank.to_string(), used.rank.to_string()),
        ("alpha", asked.alpha().to_string(), used.alpha().to_string()),
        ("target_modules", modules(asked), modules(used)),
        ("use_rslora", asked.use_rslora.to_string(), used.use_rslora.to_string()),
        ("use_dora", asked.use_dora.to_string(), used.use_dora.to_string()),
        ("lora_init", word_of(&asked.lora_init), word_of(&used.lora_init)),
    ] {
        if asked.given(field) && asked_for != has {
            let name = field.replace('_', "-");
            return Err(CliError::failed(format!(
                "--{name} {asked_for}: the adapter of --init-adapter has {has}, and keeps it: leave --{name} out"
            )));
        }
    }
    Ok(())
}

/// Ranks share a step's samples, or its micro-batches where LoRA dropout draws by those.
fn warn_of_idle_ranks(job: &Job, plan: &Plan) {
    let batches = plan.batches();
    if plan.config.lora_dropout > 0.0 {
        let advice = "raise --grad-accum, or do without --lora-dropout";
        job.check_work(batches.grad_accum, "micro-batches", advice);
    } else {
        let advice = "raise --batch-size or --grad-accum";
        job.check_work(batches.samples_per_step(), "samples", advice);
    }
}

/// Refuses a run that this machine's memory cannot hold, which the system would end in the middle.
/// The model's pages are the file's own and can be dropped and read again, but for what is made of
/// them as it loads.
fn check_memory(trainer: &Trainer, model: &Model, most: Option<u64>) -> Result<(), CliError> {
    let memory = trainer.plan().memory(model, trainer.adapter()).map_err(CliError::failed)?;
    let needed = memory.adapter_bytes + memory.activation_bytes + model.converted_bytes();
    match most {
        Some(most) if needed > most => Err(CliError::failed(format!(
            "the run needs about {} of memory beside the model, this machine has {}: use a smaller --batch-size, --max-length or --rank{}",
            bytes(needed),
            bytes(most),
            if memory.checkpoints_activations { "" } else { ", or --checkpoint-activations on" }
        ))),
        _ => Ok(()),
    }
}

/// A path as a shell would need it written.
fn shell_word(path: &Path) -> String {
    let Some(text) = path.to_str().filter(|text| !text.contains(char::is_control)) else {
        let escaped = path.as_os_str().as_encoded_bytes().escape_ascii();
        return format!("$'{escaped}'");
    };
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(shell_word(Path::new("out/a-b_1.x")), "out/a-b_1.x");
        assert_eq!(shell_word(Path::new("my run")), "'my run'");
        assert_eq!(shell_word(Path::new("it's")), "'it'\\''s'");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let path = Path::new(std::ffi::OsStr::from_bytes(b"it's \xff"));
            assert_eq!(shell_word(path), r"$'it\'s \xff'");
            assert_eq!(shell_word(Path::new("a\u{1b}[1m")), r"$'a\x1b[1m'");
        }
    }

    #[test]
    fn a_run_beyond_the_machine_s_memory_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/llama");
        let model = Model::open(&fixture).expect("a model");
        let config = TrainConfig {
            data: fixture.join("rows.jsonl").into(),
            output: folder.path().join("tuned"),
            ..TrainConfig::default()
        };
        let trainer = Trainer::open(config, &model).expect("a run");
        assert!(check_memory(&trainer, &model, None).is_ok());
        assert!(check_memory(&trainer, &model, Some(1 << 30)).is_ok());
        let error = check_memory(&trainer, &model, Some(1 << 16)).expect_err("too little");
        let error = error.to_string();
        assert!(error.contains("this machine has 64.0 KiB: use a smaller --batch-size"), "{error}");
        assert!(error.contains("--checkpoint-activations on"), "{error}");
        assert!(memory::available_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }
}
