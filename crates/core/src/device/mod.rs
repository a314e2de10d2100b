//! Where a recording runs: the CPU, or a GPU through wgpu.

mod backend;
mod buffer;
mod cpu;
mod error;
mod gpu;
mod kernel;
mod planning;
mod recording;
mod tier;

use std::ops::{Deref, DerefMut};

use serde::Serialize;

pub use backend::{Backend, GpuCounters, KernelTime, Later, MeasuredChoice, WRONG};
pub use buffer::{Buffer, Elem, Matrix, View, Weight};
pub use error::DeviceError;
pub use gpu::adapters::{AdapterInfo, DeviceRequest, list_adapters};
pub use kernel::{Access, Call, CpuArg, CpuMatrix, Defines, Field, Kernel, Params};
pub(crate) use kernel::{kernels, params};
pub use recording::{Arg, Choice, Choices, Command, Dispatch, MAX_PARAMS, Recording, grid_1d};
pub use tier::{KernelPreference, Precision, Tier};

use cpu::Cpu;
use gpu::Gpu;
use gpu::adapters::{Picked, pick};
use planning::Planning;

/// Which device a run uses and why.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceInfo {
    /// `cpu` or `gpu`.
    pub kind: &'static str,
    /// Processor or adapter name.
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12`, `BrowserWebGpu`, or the number of threads on the CPU.
    pub backend: String,
    /// Why this one was taken.
    pub reason: String,
}

/// Sets how many threads the CPU device has in this process, before the first is opened; `false` if
/// it is too late.
pub fn set_cpu_threads(threads: usize) -> bool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().is_ok()
}

/// A place where recordings run: what it does stands at [`Backend`].
#[derive(Debug)]
pub struct Device {
    backend: Box<dyn Backend>,
    info: DeviceInfo,
}

impl Deref for Device {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.backend
    }
}

impl DerefMut for Device {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.backend
    }
}

impl Device {
    /// Opens the device that `request` names.
    ///
    /// # Errors
    /// Where there is no such device or its driver refuses.
    pub async fn open(request: &DeviceRequest) -> Result<Self, DeviceError> {
        Self::open_warm(request, &|_| None).await
    }

    /// As [`Self::open`]. `kept` finds what [`Backend::compiled`] gave in an earlier run, by
    /// [`Backend::identity`]; where it finds nothing, or something damaged or outdated, shaders are
    /// compiled anew.
    ///
    /// # Errors
    /// Where there is no such device or its driver refuses.
    pub async fn open_warm(
        request: &DeviceRequest,
        kept: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, DeviceError> {
        let (adapter, reason) = match pick(request).await? {
            Picked::Cpu(reason) => return Ok(Self::on_cpu(Cpu::<f32>::default(), reason)),
            Picked::Gpu(adapter, reason) => (adapter, reason),
        };
        let gpu = Gpu::open(adapter, kept).await?;
        let info = DeviceInfo { kind: "gpu", name: gpu.name().to_owned(), backend: gpu.backend().to_owned(), reason };
        Ok(Self { backend: Box::new(gpu), info })
    }

    fn on_cpu(backend: impl Backend + 'static, reason: &str) -> Self {
        let info = DeviceInfo {
            kind: "cpu",
            name: "CPU".into(),
            backend: format!("{} threads", rayon::current_num_threads()),
            reason: reason.into(),
        };
        Self { backend: Box::new(backend), info }
    }

    /// The CPU, in f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self::on_cpu(Cpu::<f32>::default(), "asked for")
    }

    /// The CPU, in f64: slow, for gradient checks.
    #[must_use]
    pub fn cpu_f64() -> Self {
        Self::on_cpu(Cpu::<f64>::default(), "gradient checks")
    }

    /// A device that holds nothing and counts the bytes it is asked for: what a run will need,
    /// before it starts.
    #[must_use]
    pub fn planning() -> Self {
        Self::on_cpu(Planning::default(), "planning")
    }

    /// Which device this is and why it was taken.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }
}
