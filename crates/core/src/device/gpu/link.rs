//! The open adapter: its memory, its queue, its errors, and waiting for it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::backend::GpuCounters;
use crate::device::buffer::{Buffer, Storage, View, lock};
use crate::device::error::DeviceError;

/// Values read back in one piece: a browser holds each three times over while it is read.
const READ_PIECE: usize = 1 << 20;

/// An open adapter.
#[derive(Debug)]
pub(super) struct Link {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub max_binding_bytes: u64,
    /// Numbers of buffers that were dropped.
    pub graveyard: Arc<Mutex<Vec<u64>>>,
    /// The first error that the driver reported, kept until the device is dropped.
    failure: Arc<Mutex<Option<DeviceError>>>,
    /// Why the device was lost, once it is.
    lost: Arc<Mutex<Option<String>>>,
    counters: Mutex<GpuCounters>,
}

impl Link {
    pub async fn open(adapter: &wgpu::Adapter, features: wgpu::Features) -> Result<Self, DeviceError> {
        // SAFETY: of what is experimental only cooperative matrices are asked for, by kernels whose
        // results are checked before they are taken.
        let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let offered = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bft"),
            required_features: features,
            experimental_features,
            required_limits: wgpu::Limits {
                max_buffer_size: offered.max_buffer_size,
                max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
                ..Default::default()
            },
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|error| DeviceError::Open { adapter: adapter.get_info().name, reason: error.to_string() })?;

        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let error = match error {
                wgpu::Error::OutOfMemory { .. } => DeviceError::OutOfMemory { what: "an allocation".into(), bytes: 0 },
                other => DeviceError::Refused(first_line(&other.to_string())),
            };
            lock(&slot).get_or_insert(error);
        }));
        let lost = Arc::new(Mutex::new(None));
        let slot = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            lock(&slot).get_or_insert(first_line(&format!("{reason:?}: {message}")));
        });
        Ok(Self {
            device,
            queue,
            max_binding_bytes: offered.max_storage_buffer_binding_size.min(offered.max_buffer_size),
            graveyard: Arc::default(),
            failure,
            lost,
            counters: Mutex::default(),
        })
    }

    pub fn counters(&self) -> MutexGuard<'_, GpuCounters> {
        lock(&self.counters)
    }

    /// The error that the device has come to, if any.
    pub fn check(&self) -> Result<(), DeviceError> {
        let failure = lock(&self.failure).clone();
        if failure.is_some() {
            // A lost device refuses commands before it says that it is lost: polling lets it say
            // so.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        if let Some(reason) = lock(&self.lost).clone() {
            return Err(DeviceError::Lost(reason));
        }
        failure.map_or(Ok(()), Err)
    }

    pub fn alloc(&self, label: &str, len: usize) -> Result<Buffer, DeviceError> {
        self.check()?;
        let bytes = len.max(1) as u64 * 4;
        if bytes > self.max_binding_bytes {
            return Err(DeviceError::TooLarge { what: label.to_owned(), bytes, limit: self.max_binding_bytes });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.buffer(label, bytes, usage);
        self.counters().bytes_allocated += bytes;
        if let Some(DeviceError::OutOfMemory { .. }) = &*lock(&self.failure) {
            return Err(DeviceError::OutOfMemory { what: label.to_owned(), bytes });
        }
        Ok(Buffer::new(label, len, Storage::Gpu { buffer, graveyard: Arc::clone(&self.graveyard) }))
    }

    /// A buffer of wgpu's.
    pub fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let label = Some(label);
        self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    }

    /// Writes at an element of a buffer, before whatever is submitted next.
    pub fn write(&self, buffer: &wgpu::Buffer, at: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.counters().bytes_uploaded += bytes.len() as u64;
            self.queue.write_buffer(buffer, at as u64 * 4, bytes);
        }
    }

    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.queue.submit([encoder.finish()]);
        self.counters().submits += 1;
    }

    pub async fn read(&self, view: &View) -> Result<Vec<f32>, DeviceError> {
        self.check()?;
        if view.len == 0 {
            return Ok(Vec::new());
        }
        self.counters().readbacks += 1;
        let mut values = Vec::with_capacity(view.len);
        while values.len() < view.len {
            let len = (view.len - values.len()).min(READ_PIECE);
            self.read_piece(view, len, &mut values).await?;
        }
        Ok(values)
    }

    /// Reads the `len` values of a view that follow those that are there.
    async fn read_piece(&self, view: &View, len: usize, values: &mut Vec<f32>) -> Result<(), DeviceError> {
        let bytes = len as u64 * 4;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("readback", bytes, usage);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(
            wgpu_buffer(&view.buffer)?,
            (view.offset + values.len()) as u64 * 4,
            &staging,
            0,
            Some(bytes),
        );
        self.submit(encoder);
        let mapped = Arc::new(Signal::default());
        let signal = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| signal.set(result.map_err(|error| error.to_string())));
        self.poll()?;
        let mapped = Signal::wait(mapped).await;
        self.check()?;
        mapped.map_err(DeviceError::Lost)?;
        let range = staging.get_mapped_range(..).map_err(|error| DeviceError::Refused(error.to_string()))?;
        values.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&range));
        drop(range);
        // A browser would keep it until it happens to collect its garbage.
        staging.destroy();
        Ok(())
    }

    pub async fn wait(&self) -> Result<(), DeviceError> {
        let done = Arc::new(Signal::default());
        let signal = done.clone();
        self.queue.on_submitted_work_done(move || signal.set(Ok(())));
        self.poll()?;
        let _: Result<(), String> = Signal::wait(done).await;
        self.check()
    }

    /// Natively, blocks until the queue is done and callbacks have run; in a browser the event loop
    /// does that.
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

/// The buffer of wgpu's behind one of ours.
pub(super) fn wgpu_buffer(buffer: &Buffer) -> Result<&wgpu::Buffer, DeviceError> {
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
