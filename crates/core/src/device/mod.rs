//! Where a recording runs: the CPU, or a GPU through wgpu.
//!
//! Everything here is synchronous but for opening a device and reading back. An error on the GPU side (lost,
//! out of memory, a refused command) is kept by the device and returned by the next call that can fail.

mod adapters;
mod buffer;
mod choices;
mod cpu;
mod gpu;
mod recording;
pub mod regroup;
mod sealed;
mod tier;
mod timer;

use bft_formats::{FormatError, Tensor};
use serde::Serialize;

pub use adapters::{AdapterInfo, DeviceRequest, list_adapters};
pub use buffer::{Buffer, Elem, Matrix, View, Weight};
pub use choices::{KernelPreference, MeasuredChoice, WRONG};
pub use cpu::{Call, CpuArg, CpuMatrix};
pub use gpu::GpuCounters;
pub use recording::{Access, Arg, Choice, Command, Defines, Dispatch, Kernel, MAX_PARAMS, Recording, grid_1d};

pub use tier::{Precision, Tier};
pub use timer::KernelTime;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use buffer::{Storage, WeightStorage};
use cpu::Cpu;
use gpu::Gpu;

/// What can go wrong with a device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// Not one of the accepted words.
    #[error("device {0:?} is not known: use auto, cpu, gpu or gpu:N (bft devices lists the adapters)")]
    UnknownRequest(String),
    /// A GPU was asked for and there is none.
    #[error(
        "no GPU adapter was found through Vulkan, Metal or DX12: install a driver (on Debian, mesa-vulkan-drivers gives a software one) or use --device cpu"
    )]
    NoAdapter,
    /// `gpu:N` beyond the list.
    #[error("there is no adapter {index}: found {count} (bft devices lists them)")]
    NoSuchAdapter {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver refused to open the device.
    #[error("adapter {adapter} could not be opened: {reason}; update its driver or use --device cpu")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// The device has less memory than asked for.
    #[error(
        "the device ran out of memory at {what} ({bytes} bytes): use a smaller --batch-size or --max-length, or --checkpoint-activations on"
    )]
    OutOfMemory {
        /// The buffer.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// A buffer larger than the device binds.
    #[error(
        "{what} needs {bytes} bytes in one buffer, this device binds at most {limit}: use a smaller batch or --device cpu"
    )]
    TooLarge {
        /// The buffer.
        what: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device stopped answering.
    #[error("the GPU was lost ({0}): try again, or use --device cpu")]
    Lost(String),
    /// The driver refused a command: a bug in bft or in the driver.
    #[error("the GPU driver refused a command: {0}; this is a bug, --device cpu avoids it")]
    Refused(String),
    /// A weight's file can no longer be read.
    #[error(transparent)]
    Weights(Arc<FormatError>),
    /// Buffers and kernels do not fit together: a bug in bft.
    #[error("internal mistake: {0}")]
    Misuse(String),
}

impl From<FormatError> for DeviceError {
    fn from(error: FormatError) -> Self {
        Self::Weights(Arc::new(error))
    }
}

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

#[derive(Debug)]
enum Side {
    Cpu(Cpu),
    Gpu(Box<Gpu>),
    /// Counts bytes and holds nothing.
    Planning(AtomicU64),
}

/// Sets how many threads the CPU device has in this process, before the first is opened; `false` if it is too late.
pub fn set_cpu_threads(threads: usize) -> bool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().is_ok()
}

/// A place where recordings run.
#[derive(Debug)]
pub struct Device {
    side: Side,
    info: DeviceInfo,
}

impl Device {
    /// Opens the device that `request` names.
    ///
    /// # Errors
    /// Where there is no such device or its driver refuses.
    pub async fn open(request: &DeviceRequest) -> Result<Self, DeviceError> {
        adapters::open(request, &|_| None).await
    }

    /// As [`Self::open`]. `kept` finds what [`Self::compiled`] gave in an earlier run, by [`Self::identity`]; where it
    /// finds nothing, or something damaged or outdated, shaders are compiled anew.
    ///
    /// # Errors
    /// Where there is no such device or its driver refuses.
    pub async fn open_warm(
        request: &DeviceRequest,
        kept: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, DeviceError> {
        adapters::open(request, kept).await
    }

    /// The CPU, in f32.
    #[must_use]
    pub fn cpu() -> Self {
        Self::cpu_because("asked for")
    }

    fn cpu_because(reason: &str) -> Self {
        let info = DeviceInfo {
            kind: "cpu",
            name: "CPU".into(),
            backend: format!("{} threads", rayon::current_num_threads()),
            reason: reason.into(),
        };
        Self { side: Side::Cpu(Cpu { wide: false, times: Mutex::default() }), info }
    }

    /// The CPU, in f64: slow, for gradient checks.
    #[must_use]
    pub fn cpu_f64() -> Self {
        let mut device = Self::cpu_because("gradient checks");
        device.side = Side::Cpu(Cpu { wide: true, times: Mutex::default() });
        device
    }

    /// A device that holds nothing and counts the bytes it is asked for: what a run will need, before it starts.
    #[must_use]
    pub fn planning() -> Self {
        let mut device = Self::cpu_because("planning");
        device.side = Side::Planning(AtomicU64::new(0));
        device
    }

    /// Bytes asked of a planning device so far; 0 on others.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        match &self.side {
            Side::Planning(bytes) => bytes.load(Ordering::Relaxed),
            Side::Cpu(_) | Side::Gpu(_) => 0,
        }
    }

    fn gpu_because(gpu: Gpu, reason: &str) -> Self {
        let info = DeviceInfo {
            kind: "gpu",
            name: gpu.name().to_owned(),
            backend: gpu.backend().to_owned(),
            reason: reason.into(),
        };
        Self { side: Side::Gpu(Box::new(gpu)), info }
    }

    /// Which device this is and why it was taken.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Whether recordings run on a GPU (a software one included).
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        matches!(self.side, Side::Gpu(_))
    }

    /// Whether the adapter is a software driver: kernels for it differ from those for real cards.
    #[must_use]
    pub fn is_software(&self) -> bool {
        matches!(&self.side, Side::Gpu(gpu) if gpu.is_software())
    }

    /// A GPU's backend, adapter and driver, in letters, digits, `.` and `-`; `None` on the CPU.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        match &self.side {
            Side::Gpu(gpu) => Some(gpu.identity()),
            Side::Cpu(_) | Side::Planning(_) => None,
        }
    }

    /// What the driver has made of the shaders so far, with a checksum; `None` on the CPU, and where a backend keeps
    /// that to itself.
    #[must_use]
    pub fn compiled(&self) -> Option<Vec<u8>> {
        match &self.side {
            Side::Gpu(gpu) => gpu.compiled(),
            Side::Cpu(_) | Side::Planning(_) => None,
        }
    }

    /// Bytes that one binding may span; unlimited on the CPU.
    #[must_use]
    pub fn max_binding_bytes(&self) -> u64 {
        match &self.side {
            Side::Cpu(_) | Side::Planning(_) => u64::MAX,
            Side::Gpu(gpu) => gpu.max_binding_bytes(),
        }
    }

    /// Dispatches, submits, readbacks and uploads since the device was opened; all zero on the CPU.
    #[must_use]
    pub fn counters(&self) -> GpuCounters {
        match &self.side {
            Side::Cpu(_) | Side::Planning(_) => GpuCounters::default(),
            Side::Gpu(gpu) => gpu.counters(),
        }
    }

    /// Calls and seconds of each kernel (shader, entry point) on the CPU since the device was opened; empty on a GPU.
    #[must_use]
    pub fn kernel_times(&self) -> Vec<(&'static str, &'static str, u64, f64)> {
        match &self.side {
            Side::Cpu(cpu) => cpu.times.lock().map_or_else(
                |_| Vec::new(),
                |times| {
                    times
                        .iter()
                        .map(|((shader, entry), (calls, seconds))| (*shader, *entry, *calls, *seconds))
                        .collect()
                },
            ),
            Side::Gpu(_) | Side::Planning(_) => Vec::new(),
        }
    }

    /// Starts timing each kernel anew, or ends it; `false` on the CPU and where an adapter has no timestamps. While it
    /// is on, runs are slower as a whole.
    pub fn time_kernels(&self, on: bool) -> bool {
        match &self.side {
            Side::Gpu(gpu) => gpu.time_kernels(on),
            Side::Cpu(_) | Side::Planning(_) => false,
        }
    }

    /// The kernels of all recordings run since [`Self::time_kernels`], the slowest first.
    #[must_use]
    pub fn timed_kernels(&self) -> Vec<KernelTime> {
        match &self.side {
            Side::Gpu(gpu) => gpu.timed_kernels(),
            Side::Cpu(_) | Side::Planning(_) => Vec::new(),
        }
    }

    /// Allocates `len` zeros (at least one, so that it can be bound). `label` names it in messages.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn alloc(&self, label: &str, elem: Elem, len: usize) -> Result<Buffer, DeviceError> {
        match &self.side {
            Side::Cpu(cpu) => cpu.alloc(label, elem, len.max(1)),
            Side::Gpu(gpu) => gpu.alloc(label, len.max(1)),
            Side::Planning(bytes) => {
                bytes.fetch_add(len.max(1) as u64 * 4, Ordering::Relaxed);
                Ok(Buffer::new(label, len.max(1), Storage::Planned))
            }
        }
    }

    /// A new buffer holding `values`.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn upload_f32(&self, label: &str, values: &[f32]) -> Result<Buffer, DeviceError> {
        let buffer = self.alloc(label, Elem::F32, values.len())?;
        self.write_f32(&buffer.view().first(values.len()), values)?;
        Ok(buffer)
    }

    /// Takes a frozen weight to the device, in its file's format: shared with the file on the CPU, regrouped on a GPU.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn upload_weight(&self, tensor: &Tensor) -> Result<Weight, DeviceError> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let storage = match &self.side {
            Side::Cpu(_) => WeightStorage::Cpu(tensor.bytes()?),
            Side::Planning(bytes) => {
                bytes.fetch_add(tensor.byte_len() as u64, Ordering::Relaxed);
                WeightStorage::Planned
            }
            Side::Gpu(gpu) => gpu.upload_weight(tensor)?,
        };
        Ok(Weight { dtype: tensor.dtype, rows, cols, storage: storage.into() })
    }

    /// Overwrites a view. Takes effect after every recording run before and before every one run after.
    ///
    /// # Errors
    /// Where the device failed earlier.
    ///
    /// # Panics
    /// Where the lengths differ: a mistake of the calling code.
    pub fn write_f32(&self, view: &View, values: &[f32]) -> Result<(), DeviceError> {
        assert_eq!(view.len(), values.len(), "write to {}", view.label());
        match &self.side {
            Side::Cpu(cpu) => cpu.write_f32(view, values),
            Side::Gpu(gpu) => gpu.write(view, bytemuck::cast_slice(values)),
            Side::Planning(_) => Ok(()),
        }
    }

    /// As [`Self::write_f32`], for ids.
    ///
    /// # Errors
    /// Where the device failed earlier.
    ///
    /// # Panics
    /// Where the lengths differ: a mistake of the calling code.
    pub fn write_u32(&self, view: &View, values: &[u32]) -> Result<(), DeviceError> {
        assert_eq!(view.len(), values.len(), "write to {}", view.label());
        match &self.side {
            Side::Cpu(cpu) => cpu.write_u32(view, values),
            Side::Gpu(gpu) => gpu.write(view, bytemuck::cast_slice(values)),
            Side::Planning(_) => Ok(()),
        }
    }

    /// Overwrites a view with f64 values, rounded where the device holds f32.
    ///
    /// # Errors
    /// Where the device failed earlier.
    pub fn write_f64(&self, view: &View, values: &[f64]) -> Result<(), DeviceError> {
        match &self.side {
            Side::Cpu(cpu) => cpu.write_f64(view, &mut values.iter().copied()),
            Side::Gpu(_) | Side::Planning(_) => {
                self.write_f32(view, &values.iter().map(|value| *value as f32).collect::<Vec<_>>())
            }
        }
    }

    /// Runs a recording. On a GPU the work is queued; reading back waits for it.
    ///
    /// # Errors
    /// Where the device failed now or earlier.
    pub fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        match &self.side {
            Side::Cpu(cpu) => cpu.run(recording),
            Side::Gpu(gpu) => gpu.run(recording),
            Side::Planning(_) => Ok(()),
        }
    }

    /// Waits for queued work and reads a view back.
    ///
    /// # Errors
    /// Where the device failed now or earlier.
    pub async fn read_f32(&self, view: &View) -> Result<Vec<f32>, DeviceError> {
        match &self.side {
            Side::Cpu(cpu) => cpu.read_f32(view),
            Side::Gpu(gpu) => gpu.read(view).await,
            Side::Planning(_) => Ok(vec![0.0; view.len()]),
        }
    }

    /// As [`Self::read_f32`], without loss from the f64 device.
    ///
    /// # Errors
    /// Where the device failed now or earlier.
    pub async fn read_f64(&self, view: &View) -> Result<Vec<f64>, DeviceError> {
        match &self.side {
            Side::Cpu(cpu) => cpu.read_f64(view),
            Side::Gpu(gpu) => Ok(gpu.read(view).await?.into_iter().map(f64::from).collect()),
            Side::Planning(_) => Ok(vec![0.0; view.len()]),
        }
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// Where the device failed now or earlier.
    pub async fn wait(&self) -> Result<(), DeviceError> {
        match &self.side {
            Side::Cpu(_) | Side::Planning(_) => Ok(()),
            Side::Gpu(gpu) => gpu.wait().await,
        }
    }

    /// Builds the pipelines of a recording, one after another, and runs nothing.
    pub(crate) async fn compile(&self, recording: &Recording) -> Result<(), DeviceError> {
        match &self.side {
            Side::Cpu(_) | Side::Planning(_) => Ok(()),
            Side::Gpu(gpu) => gpu.compile(recording).await,
        }
    }

    /// What kernels may need of this device: [`Tier::Portable`] alone on the CPU.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        match &self.side {
            Side::Gpu(gpu) => gpu.choices.tiers(),
            Side::Cpu(_) | Side::Planning(_) => &[Tier::Portable],
        }
    }

    /// How exact a GPU's kernels are to be; the CPU's are in f32. To be said before anything is measured.
    pub fn set_precision(&self, precision: Precision) {
        if let Side::Gpu(gpu) = &self.side {
            gpu.choices.set_precision(precision);
        }
    }

    /// Which kernels to take where several can do a call; the CPU has one way each.
    pub fn prefer_kernels(&self, preference: KernelPreference) {
        if let Side::Gpu(gpu) = &self.side {
            gpu.choices.prefer(preference);
        }
    }

    /// Whether preparing (as [`crate::Tuner::prepare`] does, and its like of runners) measures kernels that were not measured
    /// before; at first it does not.
    pub fn measure_when_preparing(&self, measures: bool) {
        if let Side::Gpu(gpu) = &self.side {
            gpu.choices.set_measures(measures);
        }
    }

    pub(crate) fn measures(&self) -> bool {
        matches!(&self.side, Side::Gpu(gpu) if gpu.choices.measures())
    }

    /// Measured choices, in a fixed order, to be remembered with the adapter and driver they were measured on.
    #[must_use]
    pub fn measured_choices(&self) -> Vec<MeasuredChoice> {
        match &self.side {
            Side::Gpu(gpu) => gpu.choices.measured(),
            Side::Cpu(_) | Side::Planning(_) => Vec::new(),
        }
    }

    /// Takes over remembered choices. A stale one, naming a kernel that is no longer there, is never used.
    pub fn remember_choices(&self, choices: &[MeasuredChoice]) {
        if let Side::Gpu(gpu) = &self.side {
            gpu.choices.remember(choices);
        }
    }

    /// Times the kernels that a recording's calls can choose from, on its own operands and a scratch result, where a
    /// class of calls was not measured before. Changes no buffer of the recording. Nothing on the CPU.
    ///
    /// Kernels differ in rounding, so a run measures before its first step or not at all.
    ///
    /// # Errors
    /// Where the device failed now or earlier.
    pub async fn measure_choices(&self, recording: &Recording) -> Result<(), DeviceError> {
        choices::measure(self, recording).await
    }

    /// Runs the kernels of a tier, which this GPU need not have, by what `rewrite` makes of their shaders: for tests. Nothing on
    /// the CPU.
    #[doc(hidden)]
    pub fn rewrite_shaders(&mut self, tier: Tier, rewrite: fn(&str) -> String) {
        if let Side::Gpu(gpu) = &mut self.side {
            gpu.rewrite_shaders(tier, rewrite);
        }
    }

    /// Loses the GPU on purpose, to test what happens then. Nothing on the CPU.
    #[doc(hidden)]
    pub fn destroy(&self) {
        if let Side::Gpu(gpu) = &self.side {
            gpu.destroy();
        }
    }
}
