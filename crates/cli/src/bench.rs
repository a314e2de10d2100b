//! `bft bench`: how fast this machine trains, embeds and generates.

mod flags;
mod flops;
mod kernels;
mod processor;
mod products;
mod rounds;
mod text;
mod timed;
mod work;

use std::time::{Duration, Instant};

use bft_core::device::Device;
use bft_formats::{EmbeddingModel, Model};
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::estimate::program_bytes;
use crate::memory;
use crate::open;
use crate::ui::{self, Progress, bytes};
use rounds::{each_line, median};
use work::{Done, Work};

pub use flags::{BenchFlags, Task};

/// Runs `bft bench`.
pub fn run(flags: &BenchFlags) -> Result<(), CliError> {
    let started = Instant::now();
    flags.check()?;
    if flags.task == Task::Kernels {
        return kernels(flags);
    }
    let Some(path) = flags.model.as_deref() else {
        return Err(CliError::usage("--model <PATH> is missing; see bft bench --help"));
    };
    if flags.task == Task::Products {
        return products(&open::model(path, flags.load.quantize)?, flags);
    }
    flags.data.as_deref().map_or(Ok(()), |path| open::readable("--data", path))?;
    let model = match flags.task {
        Task::Embed => open::embedding_model(path, flags.load.quantize)?,
        _ => EmbeddingModel::Decoder(open::model(path, flags.load.quantize)?.into()),
    };
    let rows = match (&flags.data, &model) {
        (Some(path), EmbeddingModel::Decoder(model)) => {
            let rows = open::rows(std::slice::from_ref(path), &flags.settings)?;
            Some(open::make_samples(model, rows, &flags.settings.samples())?.samples)
        }
        _ => None,
    };
    let program = program_bytes(match &model {
        EmbeddingModel::Decoder(model) => model.tokenizer.as_ref(),
        EmbeddingModel::Encoder(model) => model.tokenizer.as_ref(),
    })?;
    let device = open::device(flags.run.device())?;
    flags.kernels.apply(&device, true);
    let mut work = Work::prepare(&device, &model, rows.as_deref(), flags)?;
    let ready = started.elapsed();
    let estimate = program + Work::planned_bytes(&model, rows.as_deref(), flags)?;
    drop(rows);
    memory::give_back();
    let bench = Bench { device: &device, about: about(model.name(), &device, flags, ready, estimate) };
    if flags.serve { bench.serve(&mut work) } else { bench.measure(&mut work, flags) }
}

/// What every answer says about the run.
fn about(model: &str, device: &Device, flags: &BenchFlags, ready: Duration, estimate: u64) -> Map<String, Value> {
    let mut about = Map::new();
    let mut add = |key: &str, value: Value| about.insert(key.to_owned(), value);
    add("tool", json!("bft"));
    add("task", json!(flags.task.name()));
    add("model", json!(model));
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

fn kernels(flags: &BenchFlags) -> Result<(), CliError> {
    let model = open::model_if_given(flags.model.as_deref(), flags.load.quantize)?;
    let device = open::device(flags.run.device())?;
    let mut list = Vec::new();
    if !flags.json {
        ui::result(&kernels::Measured::heading())?;
    }
    let plan = kernels::Plan {
        model: model.as_ref().map(|model| &model.config),
        tokens: flags.lengths().iter().sum(),
        rank: flags.settings.rank,
        rounds: flags.steps,
    };
    plan.measure(&device, |it| {
        if flags.json {
            list.push(it.as_value());
            return Ok(());
        }
        ui::result(&it.row())
    })?;
    if flags.json {
        ui::json(&json!({"tool": "bft", "task": "kernels", "device": open::describe(&device), "kernels": list}))?;
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
