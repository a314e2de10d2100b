//! `bft devices`: what this machine can run on, and what `auto` takes.

use bft_core::device::{Device, list_adapters};
use clap::Args;
use serde_json::json;

use crate::error::CliError;
use crate::flags::RunFlags;
use crate::open;
use crate::ui::{self, BOLD, bytes};

/// List the GPUs of this machine and say which device `auto` takes
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft devices
  bft devices --json")]
pub struct DevicesFlags {
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// Runs `bft devices`.
pub fn run(flags: &DevicesFlags) -> Result<(), CliError> {
    let adapters = pollster::block_on(list_adapters());
    let device = pollster::block_on(Device::open(&flags.run.device)).map_err(CliError::failed)?;
    if flags.json {
        return ui::json(&json!({
            "adapters": adapters,
            "request": flags.run.device.to_string(),
            "takes": device.info(),
        }));
    }
    if adapters.is_empty() {
        ui::result("no GPU adapter was found through Vulkan, Metal or DX12")?;
    }
    for adapter in &adapters {
        let software = if adapter.software {
            ", a software driver"
        } else {
            ""
        };
        ui::result(&format!(
            "{BOLD}gpu:{}{BOLD:#}  {} ({}{software})",
            adapter.index, adapter.name, adapter.backend
        ))?;
        let none = || "none of interest".to_owned();
        let features = Some(adapter.features.join(", ")).filter(|list| !list.is_empty());
        for (name, value) in [
            ("kind", adapter.kind.clone()),
            ("driver", adapter.driver.clone()),
            ("largest buffer", bytes(adapter.max_buffer_bytes)),
            ("largest binding", bytes(adapter.max_binding_bytes)),
            (
                "workgroup memory",
                bytes(u64::from(adapter.workgroup_bytes)),
            ),
            ("workgroup size", adapter.workgroup_invocations.to_string()),
            ("features", features.unwrap_or_else(none)),
        ] {
            ui::result(&format!("       {name:<17} {value}"))?;
        }
    }
    ui::result(&format!(
        "{BOLD}--device {} takes{BOLD:#}  {}",
        flags.run.device,
        open::describe(&device)
    ))
}
