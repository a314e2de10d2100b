//! `bft devices`: what this machine can run on, and what `auto` takes.

use bft_core::cpu::instructions;
use bft_core::device::{Device, WRONG, list_adapters};
use clap::Args;
use serde_json::json;

use crate::cache;
use crate::error::CliError;
use crate::flags::RunFlags;
use crate::open;
use crate::ui::{self, BOLD, bytes};

/// List the devices of this machine and say which device `auto` takes
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft devices
  bft devices --kernels --device gpu
  bft devices --json")]
pub struct DevicesFlags {
    /// Show which kernels were measured as the fastest on the GPU of --device
    #[arg(long, help_heading = "What")]
    pub kernels: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft devices`.
pub fn run(flags: &DevicesFlags) -> Result<(), CliError> {
    if flags.kernels {
        return kernels(flags);
    }
    let adapters = pollster::block_on(list_adapters());
    let device = pollster::block_on(Device::open(flags.run.device())).map_err(CliError::failed)?;
    if flags.json {
        return ui::json(&json!({
            "adapters": adapters,
            "cpu": {"instructions": instructions()},
            "request": flags.run.device().to_string(),
            "takes": device.info(),
        }));
    }
    if adapters.is_empty() {
        ui::result("no GPU adapter was found through Vulkan, Metal or DX12")?;
    }
    for adapter in &adapters {
        let software = if adapter.software { ", a software driver" } else { "" };
        ui::result(&format!("{BOLD}gpu:{}{BOLD:#}  {} ({}{software})", adapter.index, adapter.name, adapter.backend))?;
        let none = || "none of interest".to_owned();
        let features = Some(adapter.features.join(", ")).filter(|list| !list.is_empty());
        for (name, value) in [
            ("kind", adapter.kind.clone()),
            ("driver", adapter.driver.clone()),
            ("largest buffer", bytes(adapter.max_buffer_bytes)),
            ("largest binding", bytes(adapter.max_binding_bytes)),
            ("workgroup memory", bytes(u64::from(adapter.workgroup_bytes))),
            ("workgroup size", adapter.workgroup_invocations.to_string()),
            ("features", features.unwrap_or_else(none)),
        ] {
            ui::result(&format!("       {name:<17} {value}"))?;
        }
    }
    ui::result(&format!("{BOLD}cpu{BOLD:#}    {}", instructions()))?;
    ui::result(&format!("{BOLD}--device {} takes{BOLD:#}  {}", flags.run.device(), open::describe(&device)))
}

/// What was measured on a device, by family and class of calls.
fn kernels(flags: &DevicesFlags) -> Result<(), CliError> {
    let device = open::device(flags.run.device())?;
    let choices = device.measured_choices();
    let file = cache::kernels_file(&device);
    if flags.json {
        return ui::json(&json!({
            "device": open::describe(&device),
            "file": file,
            "choices": choices,
        }));
    }
    if choices.is_empty() {
        let otherwise = if device.is_gpu() {
            "bft train, eval, generate, chat, embed and bench measure before they begin (--measure-kernels on a software driver)"
        } else {
            "the CPU has one kernel for each call"
        };
        return ui::result(&format!("nothing was measured on this device: {otherwise}"));
    }
    let heading = ["kernels for", "tokens", "matrix", "fastest", "µs", "others, µs"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for choice in &choices {
        let micros = |kernel: &str| {
            let time = choice.nanoseconds.get(kernel);
            match time {
                None => "-".to_owned(),
                Some(&WRONG) => "gave a wrong result".to_owned(),
                Some(ns) => format!("{:.1}", *ns as f64 / 1e3),
            }
        };
        let others: Vec<String> = choice
            .nanoseconds
            .keys()
            .filter(|kernel| **kernel != choice.kernel)
            .map(|kernel| format!("{kernel} {}", micros(kernel)))
            .collect();
        let [log2, out, input] = choice.class;
        rows.push(vec![
            choice.family.clone(),
            format!("{} to {}", 1u64 << log2, (2u64 << log2) - 1),
            format!("{out} × {input}"),
            choice.kernel.clone(),
            micros(&choice.kernel),
            others.join(", "),
        ]);
    }
    ui::result(&ui::table(&rows))?;
    if let Some(file) = file {
        ui::note(&format!("kept in {}; remove it to measure anew", file.display()));
    }
    Ok(())
}
