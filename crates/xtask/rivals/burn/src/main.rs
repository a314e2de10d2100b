//! Times burn's autotuned wgpu products, f32, on this machine's best adapter: a round for each line
//! on standard input.
//!
//!     cargo run --release --manifest-path crates/xtask/rivals/burn/Cargo.toml -- PRODUCTS
//!
//! PRODUCTS is a JSON list as `bft bench --task products --serve` prints it: of each product its
//! kernel (`product`, x·Wᵀ, or `input gradient`, dy·W), its tokens, rows and cols, and how often a
//! step calls it. The first line of output says that every product is tuned and warm; each further
//! one is what a round came to. A round runs every product once and waits for it; `seconds` are
//! those of a step, each product's time as often as it is called.

use std::io::Write;
use std::time::Instant;

use burn_tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};

const BURN: &str = "0.22.1";

/// One product of a step.
struct Product {
    /// x `[tokens, cols]`, or dy `[tokens, rows]`.
    left: Tensor<2>,
    /// `[rows, cols]`, as weights lie in their files.
    weight: Tensor<2>,
    transposed: bool,
    calls: f64,
    flops: f64,
}

impl Product {
    fn new(about: &Value, device: &Device) -> Result<Self, String> {
        let number = |key: &str| {
            let value = about[key].as_u64();
            value.ok_or_else(|| format!("a product has no {key}: {about}"))
        };
        let size = |key: &str| number(key).map(|value| value as usize);
        let (tokens, rows, cols) = (size("tokens")?, size("rows")?, size("cols")?);
        let transposed = match about["kernel"].as_str() {
            Some("product") => true,
            Some("input gradient") => false,
            _ => return Err(format!("no known kernel: {about}")),
        };
        let tensor = |height: usize, width: usize| {
            let values: Vec<f32> = (0..height * width)
                .map(|i| (i % 13) as f32 * 0.1 - 0.6)
                .collect();
            Tensor::from_data(TensorData::new(values, [height, width]), device)
        };
        Ok(Product {
            left: tensor(tokens, if transposed { cols } else { rows }),
            weight: tensor(rows, cols),
            transposed,
            calls: number("calls")? as f64,
            flops: 2.0 * (tokens * rows * cols) as f64,
        })
    }

    fn result(&self) -> Tensor<2> {
        let weight = self.weight.clone();
        let weight = if self.transposed {
            weight.transpose()
        } else {
            weight
        };
        self.left.clone().matmul(weight)
    }

    /// Seconds of one call, with the wait for its end.
    fn time(&self, device: &Device) -> Result<f64, String> {
        let started = Instant::now();
        let result = self.result();
        device.sync().map_err(|error| error.to_string())?;
        let seconds = started.elapsed().as_secs_f64();
        drop(result);
        Ok(seconds)
    }
}

/// Largest resident set so far in bytes, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn say(answer: &Value) -> Result<(), String> {
    let mut out = std::io::stdout();
    writeln!(out, "{answer}")
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
}

fn run() -> Result<(), String> {
    let list = std::env::args()
        .nth(1)
        .ok_or("which products? A JSON list is expected")?;
    let list: Vec<Value> =
        serde_json::from_str(&list).map_err(|error| format!("the list of products: {error}"))?;
    let (device, setup) = Device::wgpu_options()
        .init_with_setup()
        .map_err(|error| error.to_string())?;
    let adapter = setup.adapter.get_info();
    let products: Vec<Product> = list
        .iter()
        .map(|about| Product::new(about, &device))
        .collect::<Result<_, _>>()?;
    for product in &products {
        // The first call tunes and compiles, the second warms up.
        product.time(&device)?;
        product.time(&device)?;
    }
    say(&json!({
        "tool": "burn",
        "version": BURN,
        "device": format!("{} ({:?})", adapter.name, adapter.backend),
        "ready": true,
    }))?;
    for line in std::io::stdin().lines() {
        line.map_err(|error| format!("standard input cannot be read: {error}"))?;
        let (mut seconds, mut flops) = (0.0, 0.0);
        let mut each = Vec::new();
        for product in &products {
            let time = product.time(&device)?;
            seconds += product.calls * time;
            flops += product.calls * product.flops;
            each.push(product.flops / time / 1e9);
        }
        say(&json!({
            "seconds": seconds,
            "gflop": flops / 1e9,
            "gflops": flops / seconds / 1e9,
            "gflops_of_each": each,
            "peak_rss_bytes": peak_bytes(),
        }))?;
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            std::process::ExitCode::FAILURE
        }
    }
}
