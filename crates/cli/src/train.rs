//! `bft train`: fine-tunes a LoRA adapter.

mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::Checkpoint;
use bft_formats::Model;
use bft_train::{Event, Finished, Plan, Schedule, TrainConfig, Trainer};
use clap::{Args, ValueEnum};

use crate::cache;
use crate::error::CliError;
use crate::flags::{DataFlags, GroupFlags, KernelFlags, LoraFlags, Loss, RunFlags, at_least, not_negative, positive};
use crate::memory;
use crate::open;
use crate::ranks::{self, Job};
use crate::ui::{self, bytes};
use report::TrainReport;

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
PEFT's AutoPeftModelForCausalLM loads the adapter over the folder of --model, whose path it records;
over a GGUF file, load the base with transformers' gguf_file and the adapter with PeftModel.
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
    pub lr: f64,
    /// How the learning rate goes after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleFlag::Cosine, help_heading = "Optimizer")]
    pub schedule: ScheduleFlag,
    /// Steps over which the learning rate rises from 0
    #[arg(long, value_name = "STEPS", default_value_t = 0, value_parser = at_least(0), help_heading = "Optimizer")]
    pub warmup_steps: usize,
    /// Decoupled weight decay of AdamW
    #[arg(long, value_name = "NUMBER", default_value_t = 0.01, value_parser = not_negative, help_heading = "Optimizer")]
    pub weight_decay: f64,
    /// Longer gradients are shortened to this norm; 0 = off
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = not_negative, help_heading = "Optimizer")]
    pub max_grad_norm: f64,

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
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Length")]
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
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

/// `--schedule`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleFlag {
    /// half a cosine, down to 0 at the last step
    Cosine,
    /// a straight line, down to 0 at the last step
    Linear,
    /// stays where it is
    Constant,
}

impl From<ScheduleFlag> for Schedule {
    fn from(flag: ScheduleFlag) -> Self {
        match flag {
            ScheduleFlag::Cosine => Schedule::Cosine,
            ScheduleFlag::Linear => Schedule::Linear,
            ScheduleFlag::Constant => Schedule::Constant,
        }
    }
}

impl From<CheckpointFlag> for Checkpoint {
    fn from(flag: CheckpointFlag) -> Self {
        match flag {
            CheckpointFlag::Auto => Checkpoint::Auto,
            CheckpointFlag::On => Checkpoint::On,
            CheckpointFlag::Off => Checkpoint::Off,
        }
    }
}

/// `--checkpoint-activations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckpointFlag {
    /// on where memory would not do otherwise
    Auto,
    /// always
    On,
    /// never
    Off,
}

impl TrainFlags {
    /// The settings of the run, as bft-train takes them.
    fn config(&self) -> TrainConfig {
        let count = |number: usize| number as u64;
        TrainConfig {
            model: self.model.clone(),
            data: self.data.clone(),
            output: self.output.clone(),
            device: self.run.device.to_string(),
            precision: self.kernels.precision.into(),
            loss: self.loss.kind(),
            group_size: self.group.group_size,
            gamma: self.group.gamma as f32,
            init_adapter: self.init_adapter.clone(),
            rank: self.lora.rank,
            alpha: self.lora.alpha.map(|alpha| alpha as f32),
            target_modules: self.lora.target_modules.clone(),
            lora_dropout: self.lora.lora_dropout as f32,
            lr: self.lr,
            schedule: self.schedule.into(),
            warmup_steps: count(self.warmup_steps),
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            batch_size: self.batch_size,
            grad_accum: self.grad_accum,
            steps: self.steps.map(count),
            epochs: self.epochs.map(count),
            max_length: self.data_flags.max_length,
            truncate: self.data_flags.truncate,
            skip_bad_rows: self.data_flags.skip_bad_rows,
            template_vars: self.data_flags.template.variables(),
            no_shuffle: self.no_shuffle,
            seed: self.seed,
            eval_data: self.eval_data.clone(),
            eval_every: self.eval_every.map(count),
            save_every: count(self.save_every),
            resume: self.resume,
            checkpoint_activations: self.checkpoint_activations.into(),
        }
    }
}

/// Runs `bft train`.
pub fn run(flags: &TrainFlags) -> Result<(), CliError> {
    let stop = stop_on_ctrl_c()?;
    let finished = match ranks::job()? {
        None => tune(flags, stop, None)?,
        Some(job) => job.run(|job| tune(flags, stop, Some(job)))?,
    };
    if flags.json {
        ui::json(&serde_json::to_value(&finished).map_err(CliError::failed)?)?;
    }
    if finished.stopped {
        return Err(CliError::failed(format!(
            "stopped after step {}; everything is saved, go on with: bft train --output {} --resume",
            finished.steps,
            shell_word(&flags.output)
        )));
    }
    Ok(())
}

/// The run itself, in this process alone or as a rank of a job.
fn tune(flags: &TrainFlags, stop: &'static AtomicBool, job: Option<&Job>) -> Result<Finished, CliError> {
    open::existing("--data", &flags.data)?;
    if let Some(path) = &flags.eval_data {
        open::existing("--eval-data", path)?;
        open::not_one_pipe(["--data", "--eval-data"], [&flags.data, path])?;
    }
    if job.is_some() {
        open::for_every_rank("--data", &flags.data)?;
        flags.eval_data.as_deref().map_or(Ok(()), |path| open::for_every_rank("--eval-data", path))?;
    }
    if let Some(path) = &flags.init_adapter {
        open::existing("--init-adapter", path)?;
    }
    let model = open::model(&flags.model)?;
    let trainer = Trainer::open(flags.config(), &model).map_err(CliError::failed)?;
    let request = job.map_or(flags.run.device, |job| job.device(&flags.run.device));
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

/// Refuses a run that this machine's memory cannot hold, which the system would end in the middle. The model's pages
/// are the file's own and can be dropped and read again.
fn check_memory(trainer: &Trainer, model: &Model, most: Option<u64>) -> Result<(), CliError> {
    let memory = trainer.plan().memory(model, trainer.adapter()).map_err(CliError::failed)?;
    let needed = memory.adapter_bytes + memory.activation_bytes;
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

/// Set by Ctrl-C: the run ends after the step at hand.
static STOP: AtomicBool = AtomicBool::new(false);

/// The first Ctrl-C asks the run to stop, the second ends the process at once.
pub fn stop_on_ctrl_c() -> Result<&'static AtomicBool, CliError> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            // Checkpoints are renamed into place, so that ending here leaves the last one whole.
            std::process::exit(1);
        }
        ui::note("\nstopping after this step and saving; press Ctrl-C again to quit at once");
    })
    .map_err(|error| CliError::failed(format!("Ctrl-C cannot be caught: {error}")))?;
    Ok(&STOP)
}

/// A path as a shell would need it written.
fn shell_word(path: &Path) -> String {
    let Some(text) = path.to_str() else {
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
        }
    }

    #[test]
    fn a_run_beyond_the_machine_s_memory_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/llama");
        let model = Model::open(&fixture).expect("a model");
        let config = TrainConfig {
            data: fixture.join("rows.jsonl"),
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
