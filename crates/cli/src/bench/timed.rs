//! The kernels of one step on a GPU, timed by the adapter, and the floor that they set.

use bft_core::device::{Device, KernelTime};
use serde_json::{Value, json};

use super::work::Work;
use crate::error::CliError;
use crate::ui::{self, thousands};

/// One step's kernels.
pub struct Timed {
    kernels: Vec<KernelTime>,
}

impl Timed {
    /// Runs one more step with every kernel timed; `None` where the device cannot.
    pub fn step(device: &Device, work: &mut Work) -> Result<Option<Self>, CliError> {
        if !device.time_kernels(true) {
            return Ok(None);
        }
        work.step()?;
        let kernels = device.timed_kernels();
        device.time_kernels(false);
        Ok(Some(Self { kernels }))
    }

    fn seconds(&self) -> f64 {
        self.kernels.iter().map(|kernel| kernel.seconds).sum()
    }

    /// Multiplications and additions a second of the fastest product, with its name.
    fn best(&self) -> Option<(f64, &str)> {
        let products = self.kernels.iter().filter(|kernel| kernel.flops > 0.0);
        products
            .map(|kernel| (rate(kernel.flops, kernel.seconds), kernel.kernel.as_str()))
            .max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Seconds of a step whose products all ran as fast as the fastest and whose other kernels
    /// moved their bytes as fast as the fastest of those: what tuning single kernels could reach.
    fn floor(&self) -> f64 {
        let fastest = |of: fn(&KernelTime) -> f64, products: bool| {
            let those = self.kernels.iter().filter(|k| (k.flops > 0.0) == products);
            let (amount, best) = those.fold((0.0, 0.0), |(sum, best), kernel| {
                let amount = of(kernel);
                (sum + amount, f64::max(best, rate(amount, kernel.seconds)))
            });
            if best > 0.0 { amount / best } else { 0.0 }
        };
        fastest(|kernel| kernel.flops, true) + fastest(|kernel| kernel.bytes, false)
    }

    /// For `--json`.
    pub fn as_value(&self) -> Value {
        json!({
            "seconds": self.seconds(),
            "floor_seconds": self.floor(),
            "kernels": self.kernels,
        })
    }

    /// A line a kernel, the slowest first; then the floor.
    pub fn print(&self) -> Result<(), CliError> {
        let seconds = self.seconds();
        let best = self.best();
        let heading = ["kernel", "calls", "ms", "share", "GFLOP/s", "of best", "GB/s"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for kernel in &self.kernels {
            let flops = rate(kernel.flops, kernel.seconds);
            let product = |text: String| {
                if kernel.flops > 0.0 { text } else { "-".to_owned() }
            };
            let of_best = best.map_or(0.0, |(best, _)| flops / best);
            rows.push(vec![
                kernel.kernel.clone(),
                thousands(kernel.calls),
                format!("{:.2}", kernel.seconds * 1e3),
                format!("{:.1} %", kernel.seconds / seconds.max(1e-12) * 100.0),
                product(format!("{:.1}", flops / 1e9)),
                product(format!("{:.0} %", of_best * 100.0)),
                format!("{:.1}", rate(kernel.bytes, kernel.seconds) / 1e9),
            ]);
        }
        ui::result("")?;
        ui::result(&ui::table(&rows))?;
        let Some((best, name)) = best else {
            return Ok(());
        };
        ui::result(&format!(
            "kernels {:.1} ms; floor {:.1} ms ({:.0} %): products at the {:.1} GFLOP/s of {name}, the rest at the best GB/s",
            seconds * 1e3,
            self.floor() * 1e3,
            self.floor() / seconds.max(1e-12) * 100.0,
            best / 1e9,
        ))
    }
}

fn rate(amount: f64, seconds: f64) -> f64 {
    amount / seconds.max(1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_what_the_fastest_kernels_would_take() {
        let kernel =
            |name: &str, seconds, flops, bytes| KernelTime { kernel: name.to_owned(), calls: 1, seconds, flops, bytes };
        let timed = Timed {
            kernels: vec![
                kernel("slow product", 3.0, 3e9, 1.0),
                kernel("fast product", 1.0, 5e9, 1.0),
                kernel("copy", 1.0, 0.0, 4e9),
                kernel("slow copy", 1.0, 0.0, 2e9),
            ],
        };
        assert_eq!(timed.best(), Some((5e9, "fast product")));
        // 8e9 / 5e9 + 6e9 / 4e9
        assert!((timed.floor() - 3.1).abs() < 1e-9, "{}", timed.floor());
        assert_eq!(timed.seconds(), 6.0);
    }
}
