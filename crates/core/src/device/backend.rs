//! What every device does: hold buffers and run recordings.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;

use bft_formats::Tensor;
use serde::{Deserialize, Serialize};

use super::buffer::{Buffer, Elem, View, Weight};
use super::error::DeviceError;
use super::recording::Recording;
use super::tier::{KernelPreference, Precision, Tier};

/// What a device answers when its queue is done.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeviceError>> + 'a>>;

/// A place where recordings run.
///
/// Everything is synchronous but for waiting and reading back. What has a body here is what a
/// device without adapters, drivers and kernels to choose from answers.
///
/// # Errors
/// A call fails where the device has no room for what it is to hold, or failed now or earlier: an
/// error on the GPU side (lost, out of memory, a refused command) is kept and returned by the next
/// call that can fail.
pub trait Backend: Debug + wgpu::WasmNotSendSync {
    /// Allocates `len` zeros (at least one, so that it can be bound). `label` names it in messages.
    fn alloc(&self, label: &str, elem: Elem, len: usize) -> Result<Buffer, DeviceError>;

    /// Takes a frozen weight to the device, in its file's format: shared with the file on the CPU,
    /// regrouped on a GPU.
    fn upload_weight(&self, tensor: &Tensor) -> Result<Weight, DeviceError>;

    /// Overwrites a view. Takes effect after every recording run before and before every one run
    /// after.
    ///
    /// # Panics
    /// Where the lengths differ: a mistake of the calling code.
    fn write_f32(&self, view: &View, values: &[f32]) -> Result<(), DeviceError>;

    /// As [`Self::write_f32`], for ids.
    ///
    /// # Panics
    /// Where the lengths differ: a mistake of the calling code.
    fn write_u32(&self, view: &View, values: &[u32]) -> Result<(), DeviceError>;

    /// Overwrites a view with f64 values, rounded where the device holds f32.
    fn write_f64(&self, view: &View, values: &[f64]) -> Result<(), DeviceError> {
        self.write_f32(view, &values.iter().map(|value| *value as f32).collect::<Vec<_>>())
    }

    /// Runs a recording. On a GPU the work is queued; reading back waits for it.
    fn run(&self, recording: &Recording) -> Result<(), DeviceError>;

    /// Waits for queued work and reads a view back.
    fn read_f32<'a>(&'a self, view: &'a View) -> Later<'a, Vec<f32>>;

    /// As [`Self::read_f32`], without loss from the f64 device.
    fn read_f64<'a>(&'a self, view: &'a View) -> Later<'a, Vec<f64>> {
        Box::pin(async move { Ok(self.read_f32(view).await?.into_iter().map(f64::from).collect()) })
    }

    /// Waits until all queued work is done.
    fn wait(&self) -> Later<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// A new buffer holding `values`.
    fn upload_f32(&self, label: &str, values: &[f32]) -> Result<Buffer, DeviceError> {
        let buffer = self.alloc(label, Elem::F32, values.len())?;
        self.write_f32(&buffer.view().first(values.len()), values)?;
        Ok(buffer)
    }

    /// Bytes asked of a planning device so far; 0 on others.
    fn allocated_bytes(&self) -> u64 {
        0
    }

    /// Calls and seconds of each kernel (shader, entry point) on the CPU since the device was
    /// opened; empty on a GPU.
    fn kernel_times(&self) -> Vec<(&'static str, &'static str, u64, f64)> {
        Vec::new()
    }

    /// Whether recordings run on a GPU (a software one included).
    fn is_gpu(&self) -> bool {
        false
    }

    /// Whether the adapter is a software driver: kernels for it differ from those for real cards.
    fn is_software(&self) -> bool {
        false
    }

    /// A GPU's backend, adapter and driver, in letters, digits, `.` and `-`.
    fn identity(&self) -> Option<&str> {
        None
    }

    /// What the driver has made of the shaders so far, with a checksum; `None` also where a backend
    /// keeps that to itself.
    fn compiled(&self) -> Option<Vec<u8>> {
        None
    }

    /// Builds the pipelines of a recording, one after another, and runs nothing.
    fn compile<'a>(&'a self, _recording: &'a Recording) -> Later<'a, ()> {
        self.wait()
    }

    /// Bytes that one binding may span; unlimited on the CPU.
    fn max_binding_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Dispatches, submits, readbacks and uploads since the device was opened; all zero on the CPU.
    fn counters(&self) -> GpuCounters {
        GpuCounters::default()
    }

    /// Starts timing each kernel anew, or ends it; `false` on the CPU and where an adapter has no
    /// timestamps. While it is on, runs are slower as a whole.
    fn time_kernels(&self, _on: bool) -> bool {
        false
    }

    /// The kernels of all recordings run since [`Self::time_kernels`], the slowest first.
    fn timed_kernels(&self) -> Vec<KernelTime> {
        Vec::new()
    }

    /// What kernels may need of this device.
    fn tiers(&self) -> &[Tier] {
        &[Tier::Portable]
    }

    /// How exact a GPU's kernels are to be; the CPU's are in f32. To be said before anything is
    /// measured.
    fn set_precision(&self, _precision: Precision) {}

    /// Which kernels to take where several can do a call; the CPU has one way each.
    fn prefer_kernels(&self, _preference: KernelPreference) {}

    /// Whether preparing a tuner or a runner (as [`crate::Tuner::prepare`] does) measures kernels
    /// that were not measured before; at first it does not.
    fn measure_when_preparing(&self, _measures: bool) {}

    /// What [`Self::measure_when_preparing`] was told.
    fn measures(&self) -> bool {
        false
    }

    /// Measured choices, in a fixed order, to be remembered with the adapter and driver they were
    /// measured on.
    fn measured_choices(&self) -> Vec<MeasuredChoice> {
        Vec::new()
    }

    /// Takes over remembered choices. A stale one, naming a kernel that is no longer there, is
    /// never used.
    fn remember_choices(&self, _choices: &[MeasuredChoice]) {}

    /// Times the kernels that a recording's calls can choose from, on its own operands and a
    /// scratch result, where a class of calls was not measured before. Changes no buffer of the
    /// recording. Nothing on the CPU.
    ///
    /// Kernels differ in rounding, so a run measures before its first step or not at all.
    fn measure_choices<'a>(&'a self, _recording: &'a Recording) -> Later<'a, ()> {
        self.wait()
    }

    /// Runs the kernels of a tier, which this GPU need not have, by what `rewrite` makes of their
    /// shaders: for tests.
    #[doc(hidden)]
    fn rewrite_shaders(&mut self, _tier: Tier, _rewrite: fn(&str) -> String) {}

    /// Loses the GPU on purpose, to test what happens then.
    #[doc(hidden)]
    fn destroy(&self) {}
}

/// What a GPU device was asked to do since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GpuCounters {
    /// Kernel calls.
    pub dispatches: u64,
    /// Queue submissions.
    pub submits: u64,
    /// Times that the host waited for data.
    pub readbacks: u64,
    /// Bytes written to buffers, weights and parameters included.
    pub bytes_uploaded: u64,
    /// Bytes allocated in buffers, freed ones included.
    pub bytes_allocated: u64,
}

/// All calls of one kernel in one variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelTime {
    /// Shader, entry point and variant.
    pub kernel: String,
    /// Calls.
    pub calls: u64,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Multiplications and additions of matrix products; 0 for kernels that are not products.
    pub flops: f64,
    /// Bytes of its operands, each counted once where it is read and once where it is written.
    pub bytes: f64,
}

/// The fastest kernel for one class of calls on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredChoice {
    /// The family's kernel for software drivers, and its variant.
    pub family: String,
    /// Shape class of the calls.
    pub class: [u32; 3],
    /// The fastest kernel.
    pub kernel: String,
    /// Nanoseconds that a call of each kernel took, by kernel; [`WRONG`] for one that failed its
    /// check.
    pub nanoseconds: BTreeMap<String, u64>,
}

/// Stands for the time of a kernel whose result was not that of the portable one: it is never
/// taken.
pub const WRONG: u64 = u64::MAX;
