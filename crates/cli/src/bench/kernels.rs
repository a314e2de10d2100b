//! Single products at a model's sizes: of frozen weights in every format, and of LoRA's factors.

use std::time::Instant;

use bft_core::device::{Device, DeviceError, Matrix, Recording, View};
use bft_core::ops::linear;
use bft_formats::{Bytes, DType, ModelConfig, Random, Tensor};
use serde_json::{Value, json};

use super::rounds::median;
use crate::error::CliError;

/// Which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// x·Wᵀ
    Product,
    /// dy·W
    InputGradient,
    /// dyᵀ·x
    WeightGradient,
}

impl Kernel {
    /// In words, as tables, JSON and other programs know it.
    fn name(self) -> &'static str {
        match self {
            Kernel::Product => "product",
            Kernel::InputGradient => "input gradient",
            Kernel::WeightGradient => "weight gradient",
        }
    }
}

/// Whose weight is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The model's, which stay as they are.
    Frozen(DType),
    /// LoRA's, which are trained.
    Factor,
}

impl Weights {
    fn name(self) -> &'static str {
        match self {
            Weights::Frozen(dtype) => dtype.name(),
            Weights::Factor => "LoRA",
        }
    }
}

/// One kernel at one size.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    kernel: Kernel,
    weights: Weights,
    /// Tokens, outputs, inputs.
    size: [usize; 3],
    /// Of one call; the median where there were several.
    pub seconds: f64,
}

impl Measured {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        let [tokens, rows, cols] = self.size;
        2.0 * (tokens * rows * cols) as f64
    }

    /// Billions of multiplications and additions a second.
    pub fn gflops(&self) -> f64 {
        self.flops() / self.seconds.max(1e-12) / 1e9
    }

    /// The columns of [`Self::row`].
    pub fn heading() -> String {
        format!("{:<15} {:<6} {:>22} {:>10} {:>10}", "kernel", "format", "tokens × out × in", "ms", "GFLOP/s")
    }

    /// A line for people.
    pub fn row(&self) -> String {
        let [tokens, rows, cols] = self.size;
        format!(
            "{:<15} {:<6} {:>22} {:>10.3} {:>10.1}",
            self.kernel.name(),
            self.weights.name(),
            format!("{tokens} × {rows} × {cols}"),
            self.seconds * 1e3,
            self.gflops()
        )
    }

    /// For `--json`.
    pub fn as_value(&self) -> Value {
        json!({
            "kernel": self.kernel.name(),
            "dtype": self.weights.name(),
            "tokens": self.size[0],
            "rows": self.size[1],
            "cols": self.size[2],
            "seconds": self.seconds,
            "gflops": self.gflops(),
        })
    }
}

/// SmolLM2-135M's linear layers, where no model is given.
const SMOLLM2: [[usize; 2]; 3] = [[576, 576], [1536, 576], [576, 1536]];

/// What is measured.
pub struct Plan<'m> {
    /// Whose linear layers; SmolLM2-135M's where there is none.
    pub model: Option<&'m ModelConfig>,
    /// Tokens multiplied at once.
    pub tokens: usize,
    /// LoRA's rank.
    pub rank: usize,
    /// Calls that are timed.
    pub rounds: usize,
}

impl Plan<'_> {
    /// Times every product; `heard` gets each as it is done.
    pub fn measure(
        &self,
        device: &Device,
        mut heard: impl FnMut(&Measured) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        use Kernel::{InputGradient, Product, WeightGradient};
        let sizes: Vec<[usize; 2]> = match self.model {
            Some(config) => {
                ["q_proj", "gate_proj", "down_proj"].iter().filter_map(|module| config.linear_shape(module)).collect()
            }
            None => SMOLLM2.to_vec(),
        };
        let most = sizes.iter().map(|[rows, cols]| *rows.min(cols)).max().unwrap_or(0);
        if self.rank > most {
            return Err(CliError::failed(format!(
                "--rank {}: the layers that are measured have a rank of {most} at most",
                self.rank
            )));
        }
        // A GPU's kernels take the numbers of a factor by fours.
        let rank = self.rank.next_multiple_of(4);
        for [rows, cols] in sizes {
            for dtype in DType::ALL.iter().copied().filter(|dtype| dtype.checked_row_bytes(cols).is_some()) {
                for kernel in [Product, InputGradient] {
                    heard(&self.product(device, kernel, Weights::Frozen(dtype), [rows, cols])?)?;
                }
            }
            for size in [[rank, cols], [rows, rank]] {
                for kernel in [Product, InputGradient, WeightGradient] {
                    heard(&self.product(device, kernel, Weights::Factor, size)?)?;
                }
            }
        }
        Ok(())
    }

    fn product(
        &self,
        device: &Device,
        kernel: Kernel,
        weights: Weights,
        [rows, cols]: [usize; 2],
    ) -> Result<Measured, CliError> {
        let product = OneProduct::new(device, kernel, weights, [self.tokens, rows, cols])?;
        // The first call compiles and warms up.
        let mut measured = product.run(device)?;
        let times = (0..self.rounds).map(|_| Ok(product.run(device)?.seconds));
        measured.seconds = median(&mut times.collect::<Result<Vec<f64>, CliError>>()?);
        Ok(measured)
    }
}

/// A product with operands of its own, to be run again and again.
#[derive(Debug)]
pub struct OneProduct {
    kernel: Kernel,
    weights: Weights,
    size: [usize; 3],
    recording: Recording,
}

impl OneProduct {
    /// Takes operands to the device: tokens, outputs and inputs are `size`.
    pub fn new(device: &Device, kernel: Kernel, weights: Weights, size: [usize; 3]) -> Result<Self, CliError> {
        let recording = match weights {
            Weights::Frozen(dtype) => {
                let [_, rows, cols] = size;
                let mut random = Random::new(0);
                let bytes = Bytes::from(dtype.random(rows * cols, &mut || random.bits()));
                let tensor = Tensor::new("bench", dtype, vec![rows, cols], bytes).map_err(CliError::failed)?;
                device.upload_weight(&tensor).and_then(|weight| record(device, kernel, &Matrix::frozen(&weight), size))
            }
            Weights::Factor => upload(device, "factor", size[1] * size[2])
                .and_then(|factor| record(device, kernel, &Matrix::dense(&factor, size[1], size[2]), size)),
        };
        Ok(Self { kernel, weights, size, recording: recording.map_err(CliError::failed)? })
    }

    /// Runs it, and waits for its end.
    pub fn run(&self, device: &Device) -> Result<Measured, CliError> {
        let started = Instant::now();
        device.run(&self.recording).map_err(CliError::failed)?;
        pollster::block_on(device.wait()).map_err(CliError::failed)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Measured { kernel: self.kernel, weights: self.weights, size: self.size, seconds })
    }
}

fn upload(device: &Device, label: &str, len: usize) -> Result<View, DeviceError> {
    let values: Vec<f32> = (0..len).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    Ok(device.upload_f32(label, &values)?.view())
}

fn record(
    device: &Device,
    kernel: Kernel,
    w: &Matrix,
    [tokens, rows, cols]: [usize; 3],
) -> Result<Recording, DeviceError> {
    let (x, y) = (upload(device, "x", tokens * cols)?, upload(device, "y", tokens * rows)?);
    let mut recording = Recording::new();
    match kernel {
        Kernel::Product => linear::forward(&mut recording, &x, w, &y, 1.0, false),
        Kernel::InputGradient => linear::backward(&mut recording, &y, w, &x, 1.0, false),
        Kernel::WeightGradient => {
            let gradient = upload(device, "gradient", rows * cols)?;
            linear::gradient(&mut recording, &y, &x, &gradient, rows, cols, 1.0, false);
        }
    }
    Ok(recording)
}
