//! The GPU device: encodes a recording for wgpu.

mod bindings;
mod pipelines;
mod readback;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bft_formats::Tensor;

use super::adapters::is_software;
use super::buffer::{Buffer, Storage, View, WeightStorage};
use super::choices::Choices;
use super::recording::{Command, Recording};
use super::tier::{self, Tier};
use super::timer::Timer;
use super::{DeviceError, regroup, sealed};
use bindings::UNIFORM_STRIDE;
use pipelines::Cache;

/// Commands encoded into one submit. Few enough that a browser's watchdog and a shared desktop stay happy on
/// slow adapters, many enough that submitting costs nothing.
pub(super) const COMMANDS_PER_SUBMIT: usize = 128;

/// What a GPU device was asked to do since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
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

#[derive(Debug, Default)]
struct Counters {
    dispatches: AtomicU64,
    submits: AtomicU64,
    readbacks: AtomicU64,
    bytes_uploaded: AtomicU64,
    bytes_allocated: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    backend: String,
    max_binding_bytes: u64,
    cache: Mutex<Cache>,
    graveyard: Arc<Mutex<Vec<u64>>>,
    /// The first error that the driver reported, kept until the device is dropped.
    failure: Arc<Mutex<Option<DeviceError>>>,
    /// Why the device was lost, once it is.
    lost: Arc<Mutex<Option<String>>>,
    dummy: Buffer,
    counters: Counters,
    /// Adapter and driver, in words that make a file's name.
    identity: String,
    /// What the driver made of the shaders, where the backend lets that be kept.
    compiled: Option<wgpu::PipelineCache>,
    /// While kernels are timed.
    pub(super) timer: Mutex<Option<Timer>>,
    pub(super) choices: Choices,
    /// Invocations of a workgroup that multiplies matrices.
    matrix_lanes: u32,
    /// What a test makes of the shaders of a tier.
    rewrites: HashMap<Tier, fn(&str) -> String>,
}

/// A poisoned lock only says that another thread panicked while it held it; the data are caches and stay usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_first(failure: &Mutex<Option<DeviceError>>, error: DeviceError) {
    lock(failure).get_or_insert(error);
}

impl Gpu {
    /// Opens an adapter. `kept` finds what [`Gpu::compiled`] gave in an earlier run, by [`Gpu::identity`].
    pub async fn open(adapter: wgpu::Adapter, kept: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Self, DeviceError> {
        let info = adapter.get_info();
        let optional = wgpu::Features::PIPELINE_CACHE | wgpu::Features::TIMESTAMP_QUERY;
        let tiers: Vec<Tier> = Tier::ALL.into_iter().filter(|tier| tier.is_offered_by(&adapter)).collect();
        let features = tiers.iter().fold(adapter.features() & optional, |all, tier| all | tier.features());
        // SAFETY: of what is experimental only cooperative matrices are asked for, by kernels whose results are checked before
        // they are taken.
        let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let offered = adapter.limits();
        let limits = wgpu::Limits {
            max_buffer_size: offered.max_buffer_size,
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            ..Default::default()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bft"),
            required_features: features,
            experimental_features,
            required_limits: limits,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| DeviceError::Open { adapter: info.name.clone(), reason: error.to_string() })?;

        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            keep_first(
                &slot,
                match error {
                    wgpu::Error::OutOfMemory { .. } => {
                        DeviceError::OutOfMemory { what: "an allocation".into(), bytes: 0 }
                    }
                    other => DeviceError::Refused(first_line(&other.to_string())),
                },
            );
        }));
        let lost = Arc::new(Mutex::new(None));
        let slot = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            lock(&slot).get_or_insert(first_line(&format!("{reason:?}: {message}")));
        });

        let identity = identity(&info);
        let caches = features.contains(wgpu::Features::PIPELINE_CACHE);
        let compiled = caches.then(|| {
            let file = kept(&identity);
            let data = file.as_deref().and_then(sealed::unseal);
            // SAFETY: the checksum says that it is what `get_data` gave; wgpu and the driver look at its header for
            // another adapter or version.
            unsafe {
                device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                    label: Some("bft"),
                    data,
                    fallback: true,
                })
            }
        });

        let graveyard = Arc::default();
        let dummy = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("unused"),
            size: 256,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let dummy = Buffer::new("unused", 64, Storage::Gpu { buffer: dummy, graveyard: Arc::clone(&graveyard) });
        Ok(Self {
            device,
            queue,
            backend: format!("{:?}", info.backend),
            max_binding_bytes: offered.max_storage_buffer_binding_size.min(offered.max_buffer_size),
            choices: Choices::new(is_software(&info), tiers),
            matrix_lanes: tier::lanes(&info),
            rewrites: HashMap::new(),
            info,
            cache: Mutex::default(),
            graveyard,
            failure,
            lost,
            dummy,
            counters: Counters::default(),
            identity,
            compiled,
            timer: Mutex::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    pub fn backend(&self) -> &str {
        &self.backend
    }

    pub fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What the driver made of the shaders so far, to be given to [`Gpu::open`] in another run.
    pub fn compiled(&self) -> Option<Vec<u8>> {
        let data = self.compiled.as_ref()?.get_data()?;
        Some(sealed::seal(&data))
    }

    pub fn max_binding_bytes(&self) -> u64 {
        self.max_binding_bytes
    }

    pub fn counters(&self) -> GpuCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GpuCounters {
            dispatches: get(&self.counters.dispatches),
            submits: get(&self.counters.submits),
            readbacks: get(&self.counters.readbacks),
            bytes_uploaded: get(&self.counters.bytes_uploaded),
            bytes_allocated: get(&self.counters.bytes_allocated),
        }
    }

    pub fn rewrite_shaders(&mut self, tier: Tier, rewrite: fn(&str) -> String) {
        self.choices.add_tier(tier);
        self.rewrites.insert(tier, rewrite);
    }

    pub fn destroy(&self) {
        self.device.destroy();
    }

    fn check(&self) -> Result<(), DeviceError> {
        let failure = lock(&self.failure).clone();
        if failure.is_some() {
            // A lost device refuses commands before it says that it is lost: polling lets it say so.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        if let Some(reason) = lock(&self.lost).clone() {
            return Err(DeviceError::Lost(reason));
        }
        failure.map_or(Ok(()), Err)
    }

    pub fn alloc(&self, label: &str, len: usize) -> Result<Buffer, DeviceError> {
        self.check()?;
        let bytes = len as u64 * 4;
        if bytes > self.max_binding_bytes {
            return Err(DeviceError::TooLarge { what: label.to_owned(), bytes, limit: self.max_binding_bytes });
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.counters.bytes_allocated.fetch_add(bytes, Ordering::Relaxed);
        if let Some(DeviceError::OutOfMemory { .. }) = &*lock(&self.failure) {
            return Err(DeviceError::OutOfMemory { what: label.to_owned(), bytes });
        }
        Ok(Buffer::new(label, len, Storage::Gpu { buffer, graveyard: Arc::clone(&self.graveyard) }))
    }

    pub fn upload_weight(&self, tensor: &Tensor) -> Result<WeightStorage, DeviceError> {
        let (name, dtype, rows, cols) = (&tensor.name, tensor.dtype, tensor.rows(), tensor.cols());
        let sizes = regroup::sizes(dtype, rows, cols);
        let quants = self.alloc(name, sizes.quants)?;
        let scales = if sizes.scales == 0 { self.dummy.clone() } else { self.alloc(name, sizes.scales)? };
        // Read and regrouped in pieces of about 4 MiB, so that a large weight never has a second whole copy.
        let piece = ((4 << 20) / dtype.row_bytes(cols).max(1)).max(1).next_multiple_of(regroup::ROW_ALIGN);
        for start in (0..rows).step_by(piece) {
            let data = tensor.read_rows(start..rows.min(start + piece))?;
            let regrouped = regroup::regroup(dtype, cols, &data);
            let at = regroup::sizes(dtype, start, cols);
            self.write_at(&quants, at.quants, &regrouped.quants);
            self.write_at(&scales, at.scales, &regrouped.scales);
        }
        self.check()?;
        Ok(WeightStorage::Gpu { quants, scales })
    }

    fn write_at(&self, buffer: &Buffer, at: usize, words: &[u32]) {
        if let Storage::Gpu { buffer, .. } = &buffer.0.storage
            && !words.is_empty()
        {
            self.counters.bytes_uploaded.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
            self.queue.write_buffer(buffer, at as u64 * 4, bytemuck::cast_slice(words));
        }
    }

    pub fn write(&self, view: &View, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check()?;
        self.counters.bytes_uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if !bytes.is_empty() {
            self.queue.write_buffer(wgpu_buffer(&view.buffer)?, view.offset as u64 * 4, bytes);
        }
        Ok(())
    }

    pub fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        self.check()?;
        let mut cache = lock(&self.cache);
        let mut timer = lock(&self.timer);
        self.bury(&mut cache);
        let dispatches = recording.dispatches().count();
        let (uniforms_id, uniforms) = self.upload_params(&mut cache, recording, dispatches);
        let mut offset = 0;
        for commands in recording.commands.chunks(COMMANDS_PER_SUBMIT) {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut rest = commands;
            while let Some(first) = rest.first() {
                match first {
                    Command::Clear(view) => {
                        encoder.clear_buffer(
                            wgpu_buffer(&view.buffer)?,
                            view.offset as u64 * 4,
                            Some(view.len as u64 * 4),
                        );
                        rest = &rest[1..];
                    }
                    Command::Copy { from, to } => {
                        let (source, target) = (wgpu_buffer(&from.buffer)?, wgpu_buffer(&to.buffer)?);
                        encoder.copy_buffer_to_buffer(
                            source,
                            from.offset as u64 * 4,
                            target,
                            to.offset as u64 * 4,
                            Some(from.len as u64 * 4),
                        );
                        rest = &rest[1..];
                    }
                    Command::Dispatch(first) => {
                        let timed = timer.is_some();
                        let timestamps = timer.as_mut().map(|timer| timer.next(self.choices.pick(first), first));
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                            label: None,
                            timestamp_writes: timestamps,
                        });
                        while let Some(Command::Dispatch(dispatch)) = rest.first() {
                            let choice = self.choices.pick(dispatch);
                            let pipeline = self.pipeline(&mut cache, choice, dispatch.defines)?;
                            let key = (pipeline.id, self.binding_key(uniforms_id, dispatch)?);
                            let group = match cache.groups.get(&key) {
                                Some(group) => group,
                                None => {
                                    let group = self.bind_group(&pipeline, &uniforms, dispatch)?;
                                    cache.groups.entry(key).or_insert(group)
                                }
                            };
                            pass.set_pipeline(&pipeline.pipeline);
                            pass.set_bind_group(0, group, &[offset]);
                            let [x, y, z] = choice.grid;
                            pass.dispatch_workgroups(x, y, z);
                            offset += UNIFORM_STRIDE as u32;
                            rest = &rest[1..];
                            if timed {
                                break;
                            }
                        }
                    }
                }
            }
            if let Some(timer) = &*timer {
                timer.resolve(&mut encoder);
            }
            self.queue.submit([encoder.finish()]);
            self.counters.submits.fetch_add(1, Ordering::Relaxed);
            if let Some(timer) = &mut *timer {
                timer.read(&self.device)?;
            }
        }
        self.counters.dispatches.fetch_add(dispatches as u64, Ordering::Relaxed);
        self.check()
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

fn wgpu_buffer(buffer: &Buffer) -> Result<&wgpu::Buffer, DeviceError> {
    match &buffer.0.storage {
        Storage::Gpu { buffer, .. } => Ok(buffer),
        Storage::Cpu(_) | Storage::Planned => {
            Err(DeviceError::Misuse(format!("buffer {} is of another device, used by a GPU", buffer.0.label)))
        }
    }
}

/// The first and last line of a driver's message: what failed, and why.
fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason given");
    match lines.next_back() {
        Some(last) => format!("{first} {last}"),
        None => first.to_owned(),
    }
}
