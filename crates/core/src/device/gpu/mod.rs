//! The GPU device: encodes a recording for wgpu.

pub(super) mod adapters;
mod bindings;
mod choices;
mod link;
mod measure;
mod pipelines;
mod sealed;
mod timer;

use std::sync::Mutex;

use bft_formats::Tensor;

use super::backend::{Backend, GpuCounters, KernelTime, Later, MeasuredChoice};
use super::buffer::{Buffer, Elem, View, Weight, WeightStorage, lock};
use super::error::DeviceError;
use super::recording::{Command, Recording};
use super::tier::{KernelPreference, Precision, Tier};
use adapters::is_software;
use bindings::{Bindings, UNIFORM_STRIDE};
use choices::Table;
use link::{Link, wgpu_buffer};
use pipelines::Pipelines;
use timer::Timer;

/// Commands encoded into one submit. Few enough that a browser's watchdog and a shared desktop stay
/// happy on slow adapters, many enough that submitting costs nothing.
const COMMANDS_PER_SUBMIT: usize = 128;

#[derive(Debug)]
pub(super) struct Gpu {
    info: wgpu::AdapterInfo,
    backend: String,
    /// Adapter and driver, in words that make a file's name.
    identity: String,
    link: Link,
    pipelines: Mutex<Pipelines>,
    bindings: Mutex<Bindings>,
    table: Table,
    /// While kernels are timed.
    timer: Mutex<Option<Timer>>,
}

impl Gpu {
    /// Opens an adapter. `kept` finds what [`Backend::compiled`] gave in an earlier run, by
    /// [`Backend::identity`].
    pub async fn open(adapter: wgpu::Adapter, kept: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Self, DeviceError> {
        let info = adapter.get_info();
        let optional = wgpu::Features::PIPELINE_CACHE | wgpu::Features::TIMESTAMP_QUERY;
        let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(|tier| tier.is_offered_by(&adapter)).collect();
        let features = tiers.iter().fold(adapter.features() & optional, |all, tier| all | tier.features());
        let link = Link::open(&adapter, features).await?;
        let identity = identity(&info);
        Ok(Self {
            backend: format!("{:?}", info.backend),
            pipelines: Mutex::new(Pipelines::new(&link.device, &info, || kept(&identity))),
            bindings: Mutex::new(Bindings::new(&link)),
            table: Table::new(is_software(&info), tiers),
            timer: Mutex::default(),
            identity,
            info,
            link,
        })
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    pub fn backend(&self) -> &str {
        &self.backend
    }

    fn write(&self, view: &View, bytes: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(view.len() * 4, bytes.len(), "write to {}", view.label());
        self.link.check()?;
        self.link.write(wgpu_buffer(&view.buffer)?, view.offset, bytes);
        Ok(())
    }

    /// Encodes calls that follow each other into one pass, or the first of them where calls are
    /// timed; gives those that are left. `offset` is that of the first call's parameters.
    fn encode_calls<'a>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        mut rest: &'a [Command],
        offset: &mut u32,
        timer: &mut Option<Timer>,
    ) -> Result<&'a [Command], DeviceError> {
        let (mut pipelines, mut bindings) = (lock(&self.pipelines), lock(&self.bindings));
        let timed = timer.is_some();
        let timestamp_writes = match (timer, rest.first()) {
            (Some(timer), Some(Command::Dispatch(first))) => Some(timer.next(self.table.pick(first), first)),
            _ => None,
        };
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        while let [Command::Dispatch(dispatch), others @ ..] = rest {
            let choice = self.table.pick(dispatch);
            let pipeline = pipelines.get(choice, dispatch.defines)?;
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, bindings.group(&self.link.device, &pipeline, dispatch)?, &[*offset]);
            let [x, y, z] = choice.grid;
            pass.dispatch_workgroups(x, y, z);
            *offset += UNIFORM_STRIDE as u32;
            rest = others;
            if timed {
                break;
            }
        }
        Ok(rest)
    }

    async fn compile_all(&self, recording: &Recording) -> Result<(), DeviceError> {
        for dispatch in recording.dispatches() {
            let choice = self.table.pick(dispatch);
            let is_new = {
                let mut pipelines = lock(&self.pipelines);
                let count = pipelines.len();
                pipelines.get(choice, dispatch.defines)?;
                pipelines.len() > count
            };
            if is_new {
                self.link.wait().await?;
            }
        }
        Ok(())
    }
}

impl Backend for Gpu {
    fn alloc(&self, label: &str, _elem: Elem, len: usize) -> Result<Buffer, DeviceError> {
        self.link.alloc(label, len)
    }

    fn upload_weight(&self, tensor: &Tensor) -> Result<Weight, DeviceError> {
        let (name, dtype, rows, cols) = (&tensor.name, tensor.dtype, tensor.rows(), tensor.cols());
        let (len, scale_len) = dtype.gpu_words(rows, cols);
        let quants = self.link.alloc(name, len)?;
        let dummy = || lock(&self.bindings).dummy.clone();
        let scales = if scale_len == 0 { dummy() } else { self.link.alloc(name, scale_len)? };
        // Read and regrouped in pieces of about 4 MiB, so that a large weight never has a second
        // whole copy.
        let piece = ((4 << 20) / dtype.row_bytes(cols).max(1)).max(1).next_multiple_of(Weight::ROW_ALIGN);
        for start in (0..rows).step_by(piece) {
            let end = rows.min(start + piece);
            let (first, first_scale) = dtype.gpu_words(start, cols);
            let (len, scale_len) = dtype.gpu_words(end - start, cols);
            let (mut words, mut scale_words) = (vec![0; len * 4], vec![0; scale_len * 4]);
            let bytes = tensor.read_rows(start..end)?;
            dtype.regroup(&bytes, &mut words, &mut scale_words);
            bytes.release();
            self.link.write(wgpu_buffer(&quants)?, first, &words);
            self.link.write(wgpu_buffer(&scales)?, first_scale, &scale_words);
        }
        self.link.check()?;
        Ok(Weight::new(tensor, WeightStorage::Gpu { quants, scales }))
    }

    fn write_f32(&self, view: &View, values: &[f32]) -> Result<(), DeviceError> {
        self.write(view, bytemuck::cast_slice(values))
    }

    fn write_u32(&self, view: &View, values: &[u32]) -> Result<(), DeviceError> {
        self.write(view, bytemuck::cast_slice(values))
    }

    fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        self.link.check()?;
        // Held to the end: one recording at a time has its parameters in the buffer.
        let mut timer = lock(&self.timer);
        lock(&self.bindings).prepare(&self.link, recording);
        let bytes = |elements: usize| elements as u64 * 4;
        let mut offset = 0;
        for mut rest in recording.commands.chunks(COMMANDS_PER_SUBMIT) {
            let mut encoder = self.link.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            while let [first, others @ ..] = rest {
                match first {
                    Command::Clear(view) => {
                        encoder.clear_buffer(wgpu_buffer(&view.buffer)?, bytes(view.offset), Some(bytes(view.len)));
                    }
                    Command::Copy { from, to } => {
                        let (source, target) = (wgpu_buffer(&from.buffer)?, wgpu_buffer(&to.buffer)?);
                        let len = Some(bytes(from.len));
                        encoder.copy_buffer_to_buffer(source, bytes(from.offset), target, bytes(to.offset), len);
                    }
                    Command::Dispatch(_) => {
                        rest = self.encode_calls(&mut encoder, rest, &mut offset, &mut timer)?;
                        continue;
                    }
                }
                rest = others;
            }
            if let Some(timer) = &*timer {
                timer.resolve(&mut encoder);
            }
            self.link.submit(encoder);
            if let Some(timer) = &mut *timer {
                timer.read(&self.link.device)?;
            }
        }
        self.link.counters().dispatches += recording.dispatches().count() as u64;
        self.link.check()
    }

    fn read_f32<'a>(&'a self, view: &'a View) -> Later<'a, Vec<f32>> {
        Box::pin(self.link.read(view))
    }

    fn wait(&self) -> Later<'_, ()> {
        Box::pin(self.link.wait())
    }

    fn is_gpu(&self) -> bool {
        true
    }

    fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    fn identity(&self) -> Option<&str> {
        Some(&self.identity)
    }

    fn compiled(&self) -> Option<Vec<u8>> {
        lock(&self.pipelines).compiled()
    }

    fn compile<'a>(&'a self, recording: &'a Recording) -> Later<'a, ()> {
        Box::pin(self.compile_all(recording))
    }

    fn max_binding_bytes(&self) -> u64 {
        self.link.max_binding_bytes
    }

    fn counters(&self) -> GpuCounters {
        *self.link.counters()
    }

    fn time_kernels(&self, on: bool) -> bool {
        let can = self.link.device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let timer = || Timer::new(&self.link.device, &self.link.queue, COMMANDS_PER_SUBMIT);
        *lock(&self.timer) = (on && can).then(timer);
        can
    }

    fn timed_kernels(&self) -> Vec<KernelTime> {
        lock(&self.timer).as_ref().map_or_else(Vec::new, Timer::times)
    }

    fn tiers(&self) -> &[Tier] {
        self.table.tiers()
    }

    fn set_precision(&self, precision: Precision) {
        self.table.settings().precision = precision;
    }

    fn prefer_kernels(&self, preference: KernelPreference) {
        self.table.settings().preference = preference;
    }

    fn measure_when_preparing(&self, measures: bool) {
        self.table.settings().measures = measures;
    }

    fn measures(&self) -> bool {
        self.table.settings().measures
    }

    fn measured_choices(&self) -> Vec<MeasuredChoice> {
        self.table.measured()
    }

    fn remember_choices(&self, choices: &[MeasuredChoice]) {
        self.table.remember(choices);
    }

    fn measure_choices<'a>(&'a self, recording: &'a Recording) -> Later<'a, ()> {
        Box::pin(measure::measure(self, &self.table, recording))
    }

    fn rewrite_shaders(&mut self, tier: Tier, rewrite: fn(&str) -> String) {
        self.table.add_tier(tier);
        lock(&self.pipelines).rewrites.insert(tier, rewrite);
    }

    fn destroy(&self) {
        self.link.device.destroy();
    }
}

/// Backend, vendor, device, driver and its version: what pipelines and measurements hold for.
fn identity(info: &wgpu::AdapterInfo) -> String {
    let words = format!(
        "{:?} {:x} {:x} {} {} {}",
        info.backend, info.vendor, info.device, info.name, info.driver, info.driver_info
    );
    let mut identity = String::new();
    for c in words.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '.' => identity.push(c),
            _ if !identity.ends_with('-') => identity.push('-'),
            _ => {}
        }
    }
    // File systems take 255 bytes; what a driver says of itself at great length differs early.
    identity.truncate(150);
    identity.trim_matches('-').to_owned()
}
