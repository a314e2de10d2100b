//! The products of a training step's frozen matrices, each alone, weighed by how often the step
//! calls it.

use bft_core::device::Device;
use bft_core::head_rows_at_once;
use bft_formats::{DType, LINEAR_MODULES, Model, ModelConfig};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::kernels::{self, Kernel, Measured, OneProduct};
use super::rounds::{each_line, median};
use crate::error::CliError;
use crate::memory;
use crate::ui;

/// `--weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// in the formats of the model's file
    File,
    /// as programs hold them that know no formats of blocks
    F32,
}

/// Every product of a step once, with operands on the device.
pub struct Products<'d> {
    device: &'d Device,
    list: Vec<(OneProduct, usize)>,
}

/// What a step's products came to.
struct Step {
    seconds: f64,
    flops: f64,
}

impl<'d> Products<'d> {
    /// Of a step over so many tokens, all of them trained.
    pub fn prepare(device: &'d Device, model: &Model, tokens: usize, weights: Weights) -> Result<Self, CliError> {
        let mut list = Vec::new();
        for (dtype, [rows, cols], calls) in matrices(device, model, tokens) {
            let dtype = match weights {
                Weights::File => dtype,
                Weights::F32 => DType::F32,
            };
            for kernel in [Kernel::Product, Kernel::InputGradient] {
                let frozen = kernels::Weights::Frozen(dtype);
                let product = OneProduct::new(device, kernel, frozen, [tokens, rows, cols])?;
                // The first call compiles and warms up.
                product.run(device)?;
                list.push((product, calls));
            }
        }
        Ok(Self { device, list })
    }

    /// Runs each once.
    fn round(&self) -> Result<Vec<Measured>, CliError> {
        let run = |(product, _): &(OneProduct, usize)| product.run(self.device);
        self.list.iter().map(run).collect()
    }

    fn step(&self, round: &[Measured]) -> Step {
        let calls = self.list.iter().map(|(_, calls)| *calls as f64);
        let parts = round.iter().zip(calls);
        let (mut seconds, mut flops) = (0.0, 0.0);
        for (measured, calls) in parts {
            seconds += calls * measured.seconds;
            flops += calls * measured.flops();
        }
        Step { seconds, flops }
    }

    fn as_value(&self, round: &[Measured]) -> Value {
        let with_calls = |(measured, (_, calls)): (&Measured, &(OneProduct, usize))| {
            let mut value = measured.as_value();
            value["calls"] = json!(calls);
            value
        };
        round.iter().zip(&self.list).map(with_calls).collect()
    }

    /// A line in, a round, a line of JSON out; the first line lists the products.
    pub fn serve(&self, about: &Value) -> Result<(), CliError> {
        let mut ready = about.clone();
        ready["products"] = self.as_value(&self.round()?);
        ready["ready"] = json!(true);
        ui::json(&ready)?;
        each_line(|| {
            let round = self.round()?;
            ui::json(&answer(&self.step(&round), &round))
        })
    }

    /// Medians of some rounds.
    pub fn measure(&self, about: &Value, rounds: usize, as_json: bool) -> Result<(), CliError> {
        let mut typical = self.round()?;
        let all = (0..rounds).map(|_| self.round());
        let all = all.collect::<Result<Vec<_>, CliError>>()?;
        for (at, measured) in typical.iter_mut().enumerate() {
            measured.seconds = median(&mut all.iter().map(|round| round[at].seconds).collect::<Vec<_>>());
        }
        let step = self.step(&typical);
        if as_json {
            let mut whole = about.clone();
            whole["products"] = self.as_value(&typical);
            whole["seconds"] = json!(step.seconds);
            whole["gflops"] = json!(step.flops / step.seconds / 1e9);
            return ui::json(&whole);
        }
        ui::result(&format!("{} {:>6}", Measured::heading(), "calls"))?;
        for (measured, (_, calls)) in typical.iter().zip(&self.list) {
            ui::result(&format!("{} {calls:>6}", measured.row()))?;
        }
        ui::result(&format!("a step's products: {:.2} s, {:.1} GFLOP/s", step.seconds, step.flops / step.seconds / 1e9))
    }
}

fn answer(step: &Step, round: &[Measured]) -> Value {
    let each: Vec<f64> = round.iter().map(Measured::gflops).collect();
    json!({
        "seconds": step.seconds,
        "gflop": step.flops / 1e9,
        "gflops": step.flops / step.seconds / 1e9,
        "gflops_of_each": each,
        "peak_rss_bytes": memory::peak_bytes(),
    })
}

/// Format, `[out, in]` and uses of the frozen matrices in a forward pass; the head's are those of
/// its pieces.
fn matrices(device: &Device, model: &Model, tokens: usize) -> Vec<(DType, [usize; 2], usize)> {
    let config = &model.config;
    let mut found: Vec<(DType, [usize; 2], usize)> = Vec::new();
    for layer in 0..config.layers.len() {
        for module in LINEAR_MODULES {
            let name = format!("{}.weight", ModelConfig::linear_name(layer, module));
            let dtype = model.tensor(&name).map(|tensor| tensor.dtype);
            let (Some(dtype), Some(size)) = (dtype, config.linear_shape(module)) else {
                continue;
            };
            match found.iter_mut().find(|it| (it.0, it.1) == (dtype, size)) {
                Some(same) => same.2 += 1,
                None => found.push((dtype, size, 1)),
            }
        }
    }
    let head = model.tensor("lm_head.weight").or_else(|| model.tensor("model.embed_tokens.weight"));
    if let Some(head) = head {
        let rows = head_rows_at_once(device, tokens).min(config.vocab_size);
        let size = [rows, config.hidden_size];
        found.push((head.dtype, size, config.vocab_size.div_ceil(rows)));
    }
    found
}
