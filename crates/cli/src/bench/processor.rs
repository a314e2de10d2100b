//! The kernels of a step on the CPU, and the roof above its products.

use bft_core::device::Device;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::ui;

/// What the processor did and could do.
pub struct Processor {
    /// GFLOP/s of one thread that only multiplies and adds.
    roof: f64,
    /// Name, calls a step and seconds a step, the slowest first.
    kernels: Vec<(String, f64, f64)>,
}

impl Processor {
    /// Of the steps so far; `None` on a GPU.
    pub fn of(device: &Device, steps: usize) -> Option<Self> {
        if device.is_gpu() {
            return None;
        }
        let steps = steps as f64;
        let times = device.kernel_times().into_iter();
        let mut kernels: Vec<(String, f64, f64)> = times
            .map(|(shader, entry, calls, seconds)| {
                let name = format!("{shader}::{entry}");
                (name, calls as f64 / steps, seconds / steps)
            })
            .collect();
        kernels.sort_by(|a, b| b.2.total_cmp(&a.2));
        Some(Self { roof: bft_core::cpu::peak_flops() / 1e9, kernels })
    }

    pub fn as_value(&self) -> Value {
        let kernel =
            |(name, calls, seconds): &(String, f64, f64)| json!({"kernel": name, "calls": calls, "seconds": seconds});
        let kernels: Vec<Value> = self.kernels.iter().map(kernel).collect();
        json!({"gflops_of_one_thread": self.roof, "instructions": bft_core::cpu::instructions(), "kernels": kernels})
    }

    /// The roof, then a line a kernel.
    pub fn print(&self) -> Result<(), CliError> {
        ui::result(&format!(
            "{:<18} {:.1} GFLOP/s of one thread that only multiplies and adds, with {}",
            "roof",
            self.roof,
            bft_core::cpu::instructions()
        ))?;
        for (name, calls, seconds) in &self.kernels {
            let ms = seconds * 1e3;
            ui::result(&format!("{name:<34} {calls:>9.1} calls a step {ms:>10.3} ms a step"))?;
        }
        Ok(())
    }
}
