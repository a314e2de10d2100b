//! The GPU device: encodes a recording for wgpu.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bft_formats::Tensor;

use super::adapters::is_software;
use super::buffer::{Buffer, Inner, Matrix, Storage, View, WeightStorage};
use super::choices::Choices;
use super::recording::{
    Access, Arg, Choice, Command, Defines, Dispatch, Kernel, MAX_PARAMS, Recording,
};
use super::tier::{self, Tier};
use super::timer::Timer;
use super::{DeviceError, regroup, sealed};

/// Distance of two parameter structs in the uniform arena: WebGPU's alignment of dynamic offsets.
const UNIFORM_STRIDE: usize = 256;

/// Values read back in one piece: a browser holds each three times over while it is read.
const READ_PIECE: usize = 1 << 20;

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
struct Pipeline {
    id: u64,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// Pipeline id, then (buffer id, offset, length) of each binding.
type GroupKey = (u64, Vec<(u64, usize, usize)>);

#[derive(Debug, Default)]
struct Cache {
    pipelines: HashMap<(*const Kernel, Tier, Defines), Arc<Pipeline>>,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    uniforms: Option<(u64, wgpu::Buffer)>,
}

// SAFETY: the raw pointer is only an identity of a `&'static Kernel`, never dereferenced.
unsafe impl Send for Cache {}

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
    pub async fn open(
        adapter: wgpu::Adapter,
        kept: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, DeviceError> {
        let info = adapter.get_info();
        let optional = wgpu::Features::PIPELINE_CACHE | wgpu::Features::TIMESTAMP_QUERY;
        let tiers: Vec<Tier> = Tier::ALL
            .into_iter()
            .filter(|tier| tier.is_offered_by(&adapter))
            .collect();
        let features = tiers
            .iter()
            .fold(adapter.features() & optional, |all, tier| {
                all | tier.features()
            });
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
        let (device, queue) =
            adapter
                .request_device(&descriptor)
                .await
                .map_err(|error| DeviceError::Open {
                    adapter: info.name.clone(),
                    reason: error.to_string(),
                })?;

        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            keep_first(
                &slot,
                match error {
                    wgpu::Error::OutOfMemory { .. } => DeviceError::OutOfMemory {
                        what: "an allocation".into(),
                        bytes: 0,
                    },
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
        let dummy = Buffer::new(
            "unused",
            64,
            Storage::Gpu {
                buffer: dummy,
                graveyard: Arc::clone(&graveyard),
            },
        );
        Ok(Self {
            device,
            queue,
            backend: format!("{:?}", info.backend),
            max_binding_bytes: offered
                .max_storage_buffer_binding_size
                .min(offered.max_buffer_size),
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
            return Err(DeviceError::TooLarge {
                what: label.to_owned(),
                bytes,
                limit: self.max_binding_bytes,
            });
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.counters
            .bytes_allocated
            .fetch_add(bytes, Ordering::Relaxed);
        if let Some(DeviceError::OutOfMemory { .. }) = &*lock(&self.failure) {
            return Err(DeviceError::OutOfMemory {
                what: label.to_owned(),
                bytes,
            });
        }
        Ok(Buffer::new(
            label,
            len,
            Storage::Gpu {
                buffer,
                graveyard: Arc::clone(&self.graveyard),
            },
        ))
    }

    pub fn upload_weight(&self, tensor: &Tensor) -> Result<WeightStorage, DeviceError> {
        let (name, dtype, rows, cols) = (&tensor.name, tensor.dtype, tensor.rows(), tensor.cols());
        let sizes = regroup::sizes(dtype, rows, cols);
        let quants = self.alloc(name, sizes.quants)?;
        let scales = if sizes.scales == 0 {
            self.dummy.clone()
        } else {
            self.alloc(name, sizes.scales)?
        };
        // Read and regrouped in pieces of about 4 MiB, so that a large weight never has a second whole copy.
        let piece = ((4 << 20) / dtype.row_bytes(cols).max(1))
            .max(1)
            .next_multiple_of(regroup::ROW_ALIGN);
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
            self.counters
                .bytes_uploaded
                .fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
            self.queue
                .write_buffer(buffer, at as u64 * 4, bytemuck::cast_slice(words));
        }
    }

    pub fn write(&self, view: &View, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check()?;
        self.counters
            .bytes_uploaded
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if !bytes.is_empty() {
            self.queue
                .write_buffer(wgpu_buffer(&view.buffer)?, view.offset as u64 * 4, bytes);
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
            let mut encoder = self
                .device
                .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
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
                        let (source, target) =
                            (wgpu_buffer(&from.buffer)?, wgpu_buffer(&to.buffer)?);
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
                        let timestamps = timer
                            .as_mut()
                            .map(|timer| timer.next(self.choices.pick(first), first));
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
        self.counters
            .dispatches
            .fetch_add(dispatches as u64, Ordering::Relaxed);
        self.check()
    }

    /// Drops bind groups whose buffers were dropped.
    fn bury(&self, cache: &mut Cache) {
        let dead = std::mem::take(&mut *lock(&self.graveyard));
        if !dead.is_empty() {
            let dead: std::collections::HashSet<u64> = dead.into_iter().collect();
            cache
                .groups
                .retain(|(_, bindings), _| !bindings.iter().any(|(id, ..)| dead.contains(id)));
        }
    }

    fn upload_params(
        &self,
        cache: &mut Cache,
        recording: &Recording,
        dispatches: usize,
    ) -> (u64, wgpu::Buffer) {
        let mut bytes = Vec::with_capacity(dispatches * UNIFORM_STRIDE);
        for dispatch in recording.dispatches() {
            bytes.extend_from_slice(&dispatch.params);
            bytes.resize(bytes.len().next_multiple_of(UNIFORM_STRIDE), 0);
        }
        let needed = bytes.len().max(UNIFORM_STRIDE) as u64;
        if cache
            .uniforms
            .as_ref()
            .is_none_or(|(_, buffer)| buffer.size() < needed)
        {
            if let Some((old, _)) = cache.uniforms.take() {
                cache.groups.retain(|(_, bindings), _| bindings[0].0 != old);
            }
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: needed.next_power_of_two(),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            cache.uniforms = Some((super::buffer::next_id(), buffer));
        }
        let (id, buffer) = cache.uniforms.clone().expect("set above");
        if !bytes.is_empty() {
            self.counters
                .bytes_uploaded
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.queue.write_buffer(&buffer, 0, &bytes);
        }
        (id, buffer)
    }

    fn pipeline(
        &self,
        cache: &mut Cache,
        choice: Choice,
        defines: Defines,
    ) -> Result<Arc<Pipeline>, DeviceError> {
        let key = (std::ptr::from_ref(choice.kernel), choice.needs, defines);
        if let Some(pipeline) = cache.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.build(choice, defines)?);
        cache.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Builds the pipelines of a recording, one after another.
    pub async fn compile(&self, recording: &Recording) -> Result<(), DeviceError> {
        for dispatch in recording.dispatches() {
            let choice = self.choices.pick(dispatch);
            let is_new = {
                let mut cache = lock(&self.cache);
                let count = cache.pipelines.len();
                self.pipeline(&mut cache, choice, dispatch.defines)?;
                cache.pipelines.len() > count
            };
            if is_new {
                self.wait().await?;
            }
        }
        Ok(())
    }

    fn build(&self, choice: Choice, defines: Defines) -> Result<Pipeline, DeviceError> {
        let kernel = choice.kernel;
        let label = format!("{}::{}", choice.name(), kernel.entry);
        let source = choice
            .needs
            .source(kernel.shader, defines, self.matrix_lanes)
            .map_err(|error| DeviceError::Misuse(error.to_string()))?;
        let source = match self.rewrites.get(&choice.needs) {
            Some(rewrite) => rewrite(&source),
            None => source,
        };
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        // A counter in every loop, which naga adds to stop endless ones, would keep drivers from unrolling.
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        // SAFETY: the shaders are this crate's own, and each of their loops counts up to a bound. Memory accesses
        // stay checked.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset: binding == 0,
                min_binding_size: None,
            },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for (_, access) in kernel.bindings.iter().filter(|(_, access)| access.on_gpu()) {
            let read_only = !matches!(access, Access::Write | Access::ReadWrite);
            let count = if *access == Access::Matrix { 2 } else { 1 };
            for _ in 0..count {
                entries.push(entry(
                    entries.len() as u32,
                    wgpu::BufferBindingType::Storage { read_only },
                ));
            }
        }
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(&label),
                entries: &entries,
            });
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(kernel.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: self.compiled.as_ref(),
            });
        self.check()?;
        Ok(Pipeline {
            id: super::buffer::next_id(),
            pipeline,
            layout,
        })
    }

    fn binding_key(
        &self,
        uniforms_id: u64,
        dispatch: &Dispatch,
    ) -> Result<Vec<(u64, usize, usize)>, DeviceError> {
        let mut key = vec![(uniforms_id, 0, 0)];
        self.for_each_binding(dispatch, |buffer, offset, len| {
            key.push((buffer.id, offset, len))
        })?;
        Ok(key)
    }

    fn bind_group(
        &self,
        pipeline: &Pipeline,
        uniforms: &wgpu::Buffer,
        dispatch: &Dispatch,
    ) -> Result<wgpu::BindGroup, DeviceError> {
        let params = wgpu::BufferBinding {
            buffer: uniforms,
            offset: 0,
            size: wgpu::BufferSize::new(MAX_PARAMS as u64),
        };
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(params),
        }];
        self.for_each_binding(dispatch, |buffer, offset, len| {
            if let Storage::Gpu { buffer, .. } = &buffer.storage {
                let size = wgpu::BufferSize::new(len as u64 * 4);
                let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: offset as u64 * 4,
                    size,
                });
                entries.push(wgpu::BindGroupEntry {
                    binding: entries.len() as u32,
                    resource,
                });
            }
        })?;
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(dispatch.kernel().shader),
            layout: &pipeline.layout,
            entries: &entries,
        };
        Ok(self.device.create_bind_group(&descriptor))
    }

    /// Buffer, first element and length of each storage binding of a call.
    fn for_each_binding<'a>(
        &'a self,
        dispatch: &'a Dispatch,
        mut each: impl FnMut(&'a Inner, usize, usize),
    ) -> Result<(), DeviceError> {
        for (arg, (_, access)) in dispatch.args.iter().zip(dispatch.kernel().bindings) {
            match arg {
                _ if !access.on_gpu() => {}
                Arg::View(view) => each(&view.buffer.0, view.offset, view.len.max(1)),
                Arg::Matrix(Matrix::Dense { view, .. }) => {
                    each(&view.buffer.0, view.offset, view.len.max(1));
                    each(&self.dummy.0, 0, self.dummy.len());
                }
                Arg::Matrix(Matrix::Frozen {
                    weight,
                    start,
                    rows,
                }) => match &*weight.storage {
                    WeightStorage::Gpu { quants, scales } => {
                        let at = regroup::sizes(weight.dtype, *start, weight.cols);
                        let len = regroup::sizes(weight.dtype, *rows, weight.cols);
                        each(&quants.0, at.quants, len.quants);
                        each(
                            &scales.0,
                            at.scales,
                            if len.scales == 0 {
                                scales.len()
                            } else {
                                len.scales
                            },
                        );
                    }
                    WeightStorage::Cpu(_) | WeightStorage::Planned => {
                        return Err(DeviceError::Misuse(
                            "a weight on the CPU is used by a GPU".into(),
                        ));
                    }
                },
            }
        }
        Ok(())
    }

    pub async fn read(&self, view: &View) -> Result<Vec<f32>, DeviceError> {
        self.check()?;
        if view.len == 0 {
            return Ok(Vec::new());
        }
        self.counters.readbacks.fetch_add(1, Ordering::Relaxed);
        let mut values = Vec::with_capacity(view.len);
        while values.len() < view.len {
            let len = (view.len - values.len()).min(READ_PIECE);
            self.read_piece(view, len, &mut values).await?;
        }
        Ok(values)
    }

    /// Reads the `len` values of a view that follow those that are there.
    async fn read_piece(
        &self,
        view: &View,
        len: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let bytes = len as u64 * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(
            wgpu_buffer(&view.buffer)?,
            (view.offset + values.len()) as u64 * 4,
            &staging,
            0,
            Some(bytes),
        );
        self.queue.submit([encoder.finish()]);
        self.counters.submits.fetch_add(1, Ordering::Relaxed);
        let mapped = Arc::new(Signal::default());
        let signal = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            signal.set(result.map_err(|error| error.to_string()))
        });
        self.poll()?;
        let mapped = Signal::wait(mapped).await;
        self.check()?;
        mapped.map_err(DeviceError::Lost)?;
        let range = staging
            .get_mapped_range(..)
            .map_err(|error| DeviceError::Refused(error.to_string()))?;
        values.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&range));
        drop(range);
        // A browser would keep it until it happens to collect its garbage.
        staging.destroy();
        Ok(())
    }

    pub async fn wait(&self) -> Result<(), DeviceError> {
        let done = Arc::new(Signal::default());
        let signal = done.clone();
        self.queue
            .on_submitted_work_done(move || signal.set(Ok(())));
        self.poll()?;
        let _: Result<(), String> = Signal::wait(done).await;
        self.check()
    }

    /// Natively, blocks until the queue is done and callbacks have run; in a browser the event loop does that.
    fn poll(&self) -> Result<(), DeviceError> {
        match self.device.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.check()?;
                Err(DeviceError::Lost(error.to_string()))
            }
        }
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
        Storage::Cpu(_) | Storage::Planned => Err(DeviceError::Misuse(format!(
            "buffer {} is of another device, used by a GPU",
            buffer.0.label
        ))),
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

/// A value that a callback sets once and a future waits for.
#[derive(Debug, Default)]
struct Signal(Mutex<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    value: Option<Result<(), String>>,
    waker: Option<std::task::Waker>,
}

impl Signal {
    fn set(&self, value: Result<(), String>) {
        let mut state = lock(&self.0);
        state.value = Some(value);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn wait(signal: Arc<Self>) -> Result<(), String> {
        std::future::poll_fn(|context| {
            let mut state = lock(&signal.0);
            match state.value.take() {
                Some(value) => std::task::Poll::Ready(value),
                None => {
                    state.waker = Some(context.waker().clone());
                    std::task::Poll::Pending
                }
            }
        })
        .await
    }
}
