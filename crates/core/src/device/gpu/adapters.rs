//! The adapters of this machine, and which of them a run takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::error::DeviceError;
use crate::device::tier::Tier;

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceRequest {
    /// A real GPU where there is one, else the CPU; never a software driver.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The best adapter, a software one included; or the one with this number.
    Gpu(Option<usize>),
}

impl FromStr for DeviceRequest {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(None)),
            _ => text
                .strip_prefix("gpu:")
                .and_then(|index| index.parse().ok())
                .map(|index| Self::Gpu(Some(index)))
                .ok_or_else(|| DeviceError::UnknownRequest(text.to_owned())),
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(None) => f.write_str("gpu"),
            Self::Gpu(Some(index)) => write!(f, "gpu:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceRequest {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

impl From<DeviceRequest> for String {
    fn from(request: DeviceRequest) -> Self {
        request.to_string()
    }
}

/// One GPU adapter of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterInfo {
    /// The N of `gpu:N`.
    pub index: usize,
    /// Name as the driver gives it.
    pub name: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` (a software driver) or `Other`.
    pub kind: String,
    /// `Vulkan`, `Metal` or `Dx12`.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// Whether it is a software driver.
    pub software: bool,
    /// Largest storage binding, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// Invocations in a workgroup.
    pub workgroup_invocations: u32,
    /// The tiers of kernels that it can run beside the portable one, and timestamps.
    pub features: Vec<&'static str>,
    /// Whether `auto` takes this one.
    pub auto: bool,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends =
        wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::BROWSER_WEBGPU;
    // Validation layers are for shader authors; they cost time and print to the user's terminal.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// Real cards first, the strongest kind before the weaker; software drivers last.
fn rank(info: &wgpu::AdapterInfo) -> u8 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::VirtualGpu => 1,
        wgpu::DeviceType::IntegratedGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

pub(super) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    info.device_type == wgpu::DeviceType::Cpu
}

/// Adapters in the order of `gpu:N`.
async fn adapters() -> Vec<wgpu::Adapter> {
    let instance = instance();
    #[cfg(not(target_arch = "wasm32"))]
    let mut found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    #[cfg(target_arch = "wasm32")]
    let mut found: Vec<_> =
        instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.into_iter().collect();
    found.sort_by_key(|adapter| rank(&adapter.get_info()));
    found
}

/// Every adapter of this machine, best first.
pub async fn list_adapters() -> Vec<AdapterInfo> {
    let found = adapters().await;
    let list = found.iter().enumerate().map(|(index, adapter)| {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let tiers = Tier::ALL.iter().skip(1);
        let tiers = tiers.filter(|tier| tier.is_offered_by(adapter));
        let mut features: Vec<_> = tiers.map(|tier| tier.name()).collect();
        if adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            features.push("timestamps");
        }
        AdapterInfo {
            index,
            kind: format!("{:?}", info.device_type),
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: is_software(&info),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            features,
            auto: index == 0 && !is_software(&info),
            name: info.name,
        }
    });
    list.collect()
}

/// What a request comes to, and why.
pub(in crate::device) enum Picked {
    Cpu(&'static str),
    Gpu(wgpu::Adapter, String),
}

/// The device that `request` names.
pub(in crate::device) async fn pick(request: &DeviceRequest) -> Result<Picked, DeviceError> {
    if *request == DeviceRequest::Cpu {
        return Ok(Picked::Cpu("asked for with --device cpu"));
    }
    let mut found = adapters().await;
    let count = found.len();
    let (index, reason) = match request {
        DeviceRequest::Cpu | DeviceRequest::Auto => match found.first().map(wgpu::Adapter::get_info) {
            None => return Ok(Picked::Cpu("auto: no GPU was found")),
            Some(info) if is_software(&info) => {
                return Ok(Picked::Cpu("auto: the only GPU is a software driver, slower than the CPU"));
            }
            Some(_) => (0, "auto: the best GPU of this machine".into()),
        },
        DeviceRequest::Gpu(None) => (0, "the best adapter, asked for with --device gpu".into()),
        DeviceRequest::Gpu(Some(index)) => (*index, format!("asked for with --device gpu:{index}")),
    };
    match count {
        0 => Err(DeviceError::NoAdapter),
        _ if index < count => Ok(Picked::Gpu(found.swap_remove(index), reason)),
        _ => Err(DeviceError::NoSuchAdapter { index, count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip() {
        for text in ["auto", "cpu", "gpu", "gpu:0", "gpu:12"] {
            assert_eq!(text.parse::<DeviceRequest>().unwrap().to_string(), text);
        }
        for text in ["", "GPU", "gpu:", "gpu:x", "cuda", "gpu:-1"] {
            assert!(text.parse::<DeviceRequest>().is_err(), "{text}");
        }
    }
}
