//! Rates of the GPU's product kernels at SmolLM2's shapes, the kernels of a family alternating.
//!
//! `cargo run --release -p bft-core --example gpu_kernels [-- PART-OF-A-NAME [ADAPTER]]`, ADAPTER as in `--device`.
//! Every figure is the best of several runs. On a software driver the processor's time is what counts and other work
//! disturbs it: compare ratios.

use std::collections::BTreeMap;
use std::time::Instant;

use bft_core::device::{
    Choice, Device, DeviceError, DeviceRequest, Elem, KernelPreference, Matrix, Recording, Tier, View,
};
use bft_core::ops::linear;
use bft_formats::{DType, Tensor};
use pollster::block_on;

/// (rows, cols, how many a block has) of q and o, k and v, gate and up, down.
const BLOCK: [(usize, usize, usize); 4] = [(576, 576, 2), (192, 576, 2), (1536, 576, 2), (576, 1536, 1)];
const BLOCKS: usize = 30;
const VOCABULARY: usize = 49_152;
const CHUNK: usize = 4096;
const RANK: usize = 16;
const TOKENS: usize = 1024;

/// Runs of each kernel, in turns.
const ROUNDS: usize = 4;

/// A product and how often a training step does it.
struct Product {
    name: String,
    flops: f64,
    calls: usize,
    recording: Recording,
}

struct Bench {
    device: Device,
    products: Vec<Product>,
}

impl Bench {
    fn dense(&self, len: usize) -> Result<View, DeviceError> {
        let values: Vec<f32> = (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        Ok(self.device.upload_f32("operand", &values)?.view())
    }

    fn result(&self, len: usize) -> Result<View, DeviceError> {
        Ok(self.device.alloc("result", Elem::F32, len)?.view())
    }

    fn frozen(&self, dtype: DType, rows: usize, cols: usize) -> Result<Matrix, DeviceError> {
        // The same small scale and quants everywhere: rates do not depend on values.
        let data = vec![0x11; rows * dtype.row_bytes(cols)];
        let tensor = Tensor::new("weight", dtype, vec![rows, cols], data)
            .map_err(|error| DeviceError::Misuse(error.to_string()))?;
        Ok(Matrix::frozen(&self.device.upload_weight(&tensor)?))
    }

    /// Forward and, where a step needs it, backward through `w`.
    fn layer(&mut self, what: &str, tokens: usize, w: &Matrix, calls: usize) -> Result<(), DeviceError> {
        let (rows, cols) = w.shape();
        let (x, y) = (self.dense(tokens * cols)?, self.result(tokens * rows)?);
        let mut forward = Recording::new();
        linear::forward(&mut forward, &x, w, &y, 1.0, false);
        self.add("nt", what, [tokens, rows, cols], calls, forward);
        if tokens > 1 {
            let (dy, dx) = (self.dense(tokens * rows)?, self.result(tokens * cols)?);
            let mut backward = Recording::new();
            linear::backward(&mut backward, &dy, w, &dx, 1.0, false);
            self.add("nn", what, [tokens, rows, cols], calls, backward);
        }
        Ok(())
    }

    /// A LoRA matrix: forward, backward and its own gradient.
    fn lora(&mut self, rows: usize, cols: usize, calls: usize) -> Result<(), DeviceError> {
        let w = Matrix::dense(&self.dense(rows * cols)?, rows, cols);
        self.layer("F32", TOKENS, &w, calls)?;
        let (dy, x) = (self.dense(TOKENS * rows)?, self.dense(TOKENS * cols)?);
        let dw = self.result(rows * cols)?;
        let mut gradient = Recording::new();
        linear::gradient(&mut gradient, &dy, &x, &dw, rows, cols, 1.0, false);
        self.add("tn", "F32", [TOKENS, rows, cols], calls, gradient);
        Ok(())
    }

    fn add(&mut self, kind: &str, what: &str, shape: [usize; 3], calls: usize, recording: Recording) {
        let [tokens, rows, cols] = shape;
        self.products.push(Product {
            name: format!("{kind} {what} {tokens} x [{rows}, {cols}]"),
            flops: 2.0 * (tokens * rows * cols) as f64,
            calls,
            recording,
        });
    }

    /// Seconds a call.
    fn time(&self, product: &Product) -> Result<f64, DeviceError> {
        // About 20 ms at 10 GFLOP/s, or 50 calls.
        let calls = ((2e8 / product.flops) as usize).clamp(1, 50);
        block_on(self.device.wait())?;
        let start = Instant::now();
        for _ in 0..calls {
            self.device.run(&product.recording)?;
        }
        block_on(self.device.wait())?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.next().unwrap_or_default();
    let request: DeviceRequest = arguments.next().as_deref().unwrap_or("gpu").parse()?;
    let device = block_on(Device::open(&request))?;
    println!("{} ({})", device.info().name, device.info().backend);
    let mut bench = Bench { device, products: Vec::new() };
    for (rows, cols, count) in BLOCK {
        let w = bench.frozen(DType::Q4_1, rows, cols)?;
        bench.layer("Q4_1", TOKENS, &w, count * BLOCKS)?;
    }
    let head = bench.frozen(DType::Q8_0, CHUNK, 576)?;
    bench.layer("Q8_0", TOKENS, &head, VOCABULARY / CHUNK)?;
    for (rows, cols, count) in BLOCK {
        bench.lora(RANK, cols, count * BLOCKS)?;
        bench.lora(rows, RANK, count * BLOCKS)?;
    }
    // Not of a training step: other formats, and one token, as in generation.
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        let w = bench.frozen(dtype, 576, 576)?;
        bench.layer(dtype.name(), TOKENS, &w, 0)?;
    }
    for (rows, cols, _) in BLOCK {
        let w = bench.frozen(DType::Q4_1, rows, cols)?;
        bench.layer("Q4_1", 1, &w, 0)?;
    }
    bench.layer("Q8_0", 1, &head, 0)?;

    println!("{:<36} {:>10} {:>9}   kernel", "", "ms", "GFLOP/s");
    let (mut step_flops, mut step_seconds) = (0.0, 0.0);
    for product in bench.products.iter().filter(|p| p.name.contains(&filter)) {
        let mut best = BTreeMap::new();
        // The first round builds the pipelines.
        for round in 0..=ROUNDS {
            let has = |choice: &Choice| bench.device.tiers().contains(&choice.needs);
            let choices = product.recording.choices().map(|(choice, _)| choice);
            for (at, choice) in choices.filter(has).enumerate() {
                bench.device.prefer_kernels(match (choice.needs, at) {
                    (Tier::Portable, 0) => KernelPreference::First,
                    (Tier::Portable, _) => KernelPreference::Last,
                    (tier, _) => KernelPreference::Tier(tier),
                });
                let seconds = bench.time(product)?;
                let slot = best.entry(choice.name()).or_insert(f64::INFINITY);
                if round > 0 {
                    *slot = slot.min(seconds);
                }
            }
        }
        for (kernel, seconds) in &best {
            let rate = product.flops / seconds / 1e9;
            println!("{:<36} {:>10.3} {rate:>9.2}   {kernel}", product.name, seconds * 1e3);
        }
        let fastest = best.values().copied().fold(f64::INFINITY, f64::min);
        step_flops += product.flops * product.calls as f64;
        step_seconds += fastest * product.calls as f64;
    }
    println!(
        "a training step's products, each with its fastest kernel: {:.0} GFLOP in {step_seconds:.2} s, {:.2} GFLOP/s, \
         {:.1} tokens/s at most",
        step_flops / 1e9,
        step_flops / step_seconds / 1e9,
        TOKENS as f64 / step_seconds
    );
    Ok(())
}
