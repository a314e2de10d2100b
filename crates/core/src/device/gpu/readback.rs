//! Waiting for the queue, and reading back what it made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::super::DeviceError;
use super::super::buffer::View;
use super::{Gpu, lock, wgpu_buffer};

/// Values read back in one piece: a browser holds each three times over while it is read.
const READ_PIECE: usize = 1 << 20;

impl Gpu {
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
    async fn read_piece(&self, view: &View, len: usize, values: &mut Vec<f32>) -> Result<(), DeviceError> {
        let bytes = len as u64 * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
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
