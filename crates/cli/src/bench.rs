//! `bft bench`: how fast this machine trains, embeds and generates.

mod flops;
mod kernels;
mod processor;
mod products;
mod text;
mod timed;
mod work;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bft_core::device::Device;
use bft_formats::{Model, ModelConfig};
use bft_train::TrainConfig;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::estimate::program_bytes;
use crate::flags::{Flags, KernelFlags, RunFlags, at_least, share, takes};
use crate::memory;
use crate::open;
use crate::ui::{self, Progress, bytes, thousands};
use work::{Done, Work};

/// Measure tokens per second, GFLOP/s and peak memory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bench --model SmolLM2-135M-Instruct.Q4_1.gguf --task train --batch-size 4 --length 256
  bft bench --model m.gguf --task train --length 256 --trained-share 0.25  # the rest masked
  bft bench --model m.gguf --task train --lengths 256,64,32,16             # ragged samples
  bft bench --model m.gguf --task embed --batch-size 16 --length 128 --json
  bft bench --task kernels --device gpu
  bft bench --model m.gguf --task products --device gpu  # a step's, as often as it calls them

With --serve, one step is run and one JSON line printed for every line read from standard
input, so that another program's steps can be timed in turn.")]
pub struct BenchFlags {
    /// A folder with config.json and *.safetensors, or a .gguf file; not needed for --task kernels
    #[arg(long, value_name = "PATH", required_unless_present = "task", help_heading = "What")]
    pub model: Option<PathBuf>,
    /// What is measured
    #[arg(long, value_enum, default_value_t = Task::Train, help_heading = "What")]
    pub task: Task,
    /// Tokens in each sample; for generate, tokens made; for kernels, a sample's share of the tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least(2), help_heading = "What")]
    pub length: usize,
    /// Tokens in each sample, one number a sample, instead of --batch-size and --length
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', value_parser = at_least(2), help_heading = "What")]
    pub lengths: Vec<usize>,
    /// Share of each sample that is trained, at its end
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share, help_heading = "What")]
    pub trained_share: f64,
    /// Train on these rows, --batch-size of them a step, instead of on a text of bft's own
    #[arg(long, value_name = "FILE", help_heading = "What")]
    pub data: Option<PathBuf>,
    /// For --task products: the weights' formats
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = products::Weights::File, help_heading = "What")]
    pub weights: products::Weights,
    #[command(flatten)]
    pub settings: Flags<Benched>,
    /// Steps that are timed, after one that is not
    #[arg(long, value_name = "STEPS", default_value_t = 5, value_parser = at_least(1), help_heading = "Run")]
    pub steps: usize,
    /// One step for every line of standard input
    #[arg(long, conflicts_with = "steps", help_heading = "Run")]
    pub serve: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

takes!(
    /// Settings of a run that a step depends on.
    Benched: TrainConfig = max_length, truncate, skip_bad_rows, template_vars, loss, group_size, gamma, rank, alpha,
        target_modules, lora_dropout, batch_size, checkpoint_activations
);

/// `--task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// a whole optimiser step
    Train,
    /// embeddings
    Embed,
    /// greedy generation with the KV cache
    Generate,
    /// single kernels at a model's sizes
    Kernels,
    /// the products of a step, each alone
    Products,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::Train => "train",
            Task::Embed => "embed",
            Task::Generate => "generate",
            Task::Kernels => "kernels",
            Task::Products => "products",
        }
    }
}

/// More tokens than any machine takes in one step.
const MOST_TOKENS: usize = 1 << 24;

impl BenchFlags {
    /// Checks that a step can be made at all, before anything is made for it.
    fn check(&self) -> Result<(), CliError> {
        let tokens = match self.lengths[..] {
            [] => self.length.saturating_mul(self.settings.batch_size),
            ref lengths => lengths.iter().sum(),
        };
        if tokens <= MOST_TOKENS {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "{} tokens in a step, expected at most {}: use a smaller --batch-size or --length",
            thousands(tokens as u64),
            thousands(MOST_TOKENS as u64)
        )))
    }

    /// Tokens of each sample of a step.
    fn lengths(&self) -> Vec<usize> {
        if self.lengths.is_empty() { vec![self.length; self.settings.batch_size] } else { self.lengths.clone() }
    }
}

/// Runs `bft bench`.
pub fn run(flags: &BenchFlags) -> Result<(), CliError> {
    let started = Instant::now();
    flags.check()?;
    let model = flags.model.as_deref().map(open::model).transpose()?;
    if flags.task == Task::Kernels {
        let device = open::device(flags.run.device())?;
        return kernels(&device, model.as_ref().map(|model| &model.config), flags);
    }
    let Some(model) = model else {
        return Err(CliError::usage("--model <PATH> is missing; see bft bench --help"));
    };
    if flags.task == Task::Products {
        return products(&model, flags);
    }
    let rows = match &flags.data {
        Some(path) => Some(open::samples("--data", path, &model, &flags.settings.samples())?.samples),
        None => None,
    };
    let program = program_bytes(&model)?;
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let mut work = Work::prepare(&device, &model, rows.as_deref(), flags)?;
    let ready = started.elapsed();
    let estimate = program + Work::planned_bytes(&model, rows.as_deref(), flags)?;
    drop(rows);
    memory::give_back();
    let bench = Bench { device: &device, about: about(&model, &device, flags, ready, estimate) };
    if flags.serve { bench.serve(&mut work) } else { bench.measure(&mut work, flags) }
}

/// What every answer says about the run.
fn about(model: &Model, device: &Device, flags: &BenchFlags, ready: Duration, estimate: u64) -> Map<String, Value> {
    let mut about = Map::new();
    let mut add = |key: &str, value: Value| about.insert(key.to_owned(), value);
    add("tool", json!("bft"));
    add("task", json!(flags.task.name()));
    add("model", json!(model.name));
    add("device", json!(open::describe(device)));
    add("lengths", json!(flags.lengths()));
    if flags.task == Task::Train {
        add("rank", json!(flags.settings.rank));
        add("loss", json!(flags.settings.loss.to_string()));
        add("group_size", json!(flags.settings.group_size));
    }
    // From the start of the program to the first step: the model opened and on its device.
    add("ready_seconds", json!(ready.as_secs_f64()));
    // What planning says, and the program with its tokenizer: to be held against `peak_rss_bytes`.
    add("estimated_bytes", json!(estimate));
    about
}

/// A piece of work on a device, being measured.
struct Bench<'d> {
    device: &'d Device,
    about: Map<String, Value>,
}

/// One step.
#[derive(Clone, Copy)]
struct Timed {
    done: Done,
    seconds: f64,
    dispatches: u64,
    submits: u64,
    readbacks: u64,
}

impl Timed {
    fn tokens_per_second(&self) -> f64 {
        self.done.tokens as f64 / self.seconds.max(1e-12)
    }

    fn as_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
        add("seconds", json!(self.seconds));
        add("tokens", json!(self.done.tokens));
        if let Some(trained) = self.done.trained_tokens {
            add("trained_tokens", json!(trained));
        }
        if let Some(loss) = self.done.loss {
            add("loss", json!(loss));
        }
        add("tokens_per_second", json!(self.tokens_per_second()));
        add("gflops", json!(self.done.flops / self.seconds.max(1e-12) / 1e9));
        add("dispatches", json!(self.dispatches));
        add("submits", json!(self.submits));
        add("readbacks", json!(self.readbacks));
        add("peak_rss_bytes", json!(memory::peak_bytes()));
        map
    }
}

impl Bench<'_> {
    fn step(&self, work: &mut Work) -> Result<Timed, CliError> {
        let before = self.device.counters();
        let started = Instant::now();
        let done = work.step()?;
        let seconds = started.elapsed().as_secs_f64();
        let after = self.device.counters();
        Ok(Timed {
            done,
            seconds,
            dispatches: after.dispatches - before.dispatches,
            submits: after.submits - before.submits,
            readbacks: after.readbacks - before.readbacks,
        })
    }

    /// A line in, a step, a line of JSON out; the first line says that all is ready.
    fn serve(&self, work: &mut Work) -> Result<(), CliError> {
        work.step()?;
        let mut ready = self.about.clone();
        ready.insert("ready".to_owned(), json!(true));
        ready.insert("peak_rss_bytes".to_owned(), json!(memory::peak_bytes()));
        ui::json(&Value::Object(ready))?;
        each_line(|| ui::json(&Value::Object(self.step(work)?.as_map())))
    }

    fn measure(&self, work: &mut Work, flags: &BenchFlags) -> Result<(), CliError> {
        let mut progress = Progress::new("measuring", "steps", flags.steps as u64 + 1, 0);
        // Not counted: it compiles kernels and warms caches up.
        work.step()?;
        let mut steps = Vec::new();
        for step in 0..flags.steps {
            progress.at(step as u64 + 1, "");
            steps.push(self.step(work)?);
        }
        let kernels = timed::Timed::step(self.device, work)?;
        let processor = processor::Processor::of(self.device, flags.steps + 1);
        progress.finish();
        let speed = median(&mut steps.iter().map(Timed::tokens_per_second).collect::<Vec<_>>());
        let gflops = median(&mut steps.iter().map(|it| it.done.flops / it.seconds / 1e9).collect::<Vec<_>>());
        let last = steps[steps.len() - 1];
        if flags.json {
            let mut answer = self.about.clone();
            let mut step = last.as_map();
            // There, `loss` says which one it is.
            step.remove("loss");
            answer.extend(step);
            answer.insert("steps".to_owned(), json!(flags.steps));
            let seconds: Vec<f64> = steps.iter().map(|step| step.seconds).collect();
            let losses: Vec<f64> = steps.iter().filter_map(|step| step.done.loss).collect();
            if !losses.is_empty() {
                answer.insert("losses".to_owned(), json!(losses));
            }
            answer.insert("seconds".to_owned(), json!(seconds));
            answer.insert("tokens_per_second".to_owned(), json!(speed));
            answer.insert("gflops".to_owned(), json!(gflops));
            if let Some(kernels) = kernels {
                answer.insert("timed_step".to_owned(), kernels.as_value());
            }
            if let Some(processor) = processor {
                answer.insert("processor".to_owned(), processor.as_value());
            }
            return ui::json(&Value::Object(answer));
        }
        let peak = memory::peak_bytes().map_or_else(|| "unknown".to_owned(), bytes);
        for (name, value) in [
            ("tokens a second", format!("{speed:.1}")),
            ("GFLOP/s", format!("{gflops:.1}")),
            ("peak memory", peak),
            ("dispatches a step", last.dispatches.to_string()),
            ("submits a step", last.submits.to_string()),
            ("readbacks a step", last.readbacks.to_string()),
        ] {
            ui::result(&format!("{name:<18} {value}"))?;
        }
        if let Some(processor) = processor {
            processor.print()?;
        }
        kernels.map_or(Ok(()), |kernels| kernels.print())
    }
}

fn kernels(device: &Device, model: Option<&ModelConfig>, flags: &BenchFlags) -> Result<(), CliError> {
    let tokens = flags.lengths().iter().sum();
    let mut list = Vec::new();
    if !flags.json {
        ui::result(&kernels::Measured::heading())?;
    }
    kernels::measure(device, model, tokens, flags.steps, |it| {
        if flags.json {
            list.push(it.as_value());
            return Ok(());
        }
        ui::result(&it.row())
    })?;
    if flags.json {
        ui::json(&json!({"tool": "bft", "task": "kernels", "device": open::describe(device), "kernels": list}))?;
    }
    Ok(())
}

fn products(model: &Model, flags: &BenchFlags) -> Result<(), CliError> {
    let tokens = flags.lengths().iter().sum();
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let products = products::Products::prepare(&device, model, tokens, flags.weights)?;
    let about = json!({
        "tool": "bft",
        "task": "products",
        "model": model.name,
        "device": open::describe(&device),
    });
    if flags.serve { products.serve(&about) } else { products.measure(&about, flags.steps, flags.json) }
}

/// Answers every line of standard input.
fn each_line(mut answer: impl FnMut() -> Result<(), CliError>) -> Result<(), CliError> {
    for line in std::io::stdin().lines() {
        line.map_err(|error| CliError::failed(format!("standard input cannot be read: {error}")))?;
        answer()?;
    }
    Ok(())
}

/// The middle value; NaN of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
