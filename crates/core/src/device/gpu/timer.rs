//! Seconds of each kernel on a GPU, from timestamps that the adapter writes around every call.
//!
//! A call then has a pass of its own, so that a timed run as a whole is slower than one that is
//! not.

use std::collections::BTreeMap;

use crate::device::backend::KernelTime;
use crate::device::buffer::Matrix;
use crate::device::error::DeviceError;
use crate::device::kernel::Access;
use crate::device::recording::{Arg, Choice, Dispatch};

/// A device's timestamps.
#[derive(Debug)]
pub(super) struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// Calls of the submit at hand.
    calls: Vec<KernelTime>,
    times: BTreeMap<String, KernelTime>,
}

impl Timer {
    /// For submits of at most `calls` calls.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, calls: usize) -> Self {
        let count = 2 * calls as u32;
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: u64::from(count) * 8,
                usage,
                mapped_at_creation: false,
            })
        };
        Self {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            staging: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            period: f64::from(queue.get_timestamp_period()),
            calls: Vec::new(),
            times: BTreeMap::new(),
        }
    }

    /// Where the next pass, of one call, writes its two timestamps.
    pub fn next(&mut self, choice: Choice, dispatch: &Dispatch) -> wgpu::ComputePassTimestampWrites<'_> {
        let at = 2 * self.calls.len() as u32;
        self.calls.push(KernelTime {
            kernel: name(choice, dispatch),
            calls: 1,
            seconds: 0.0,
            flops: dispatch.flops,
            bytes: bytes(dispatch),
        });
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    /// Records that the timestamps so far are copied to where the host can read them.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.calls.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
            let bytes = Some(u64::from(count) * 8);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, bytes);
        }
    }

    /// Waits for the submit at hand and adds its calls up.
    pub fn read(&mut self, device: &wgpu::Device) -> Result<(), DeviceError> {
        if self.calls.is_empty() {
            return Ok(());
        }
        self.staging.map_async(wgpu::MapMode::Read, .., |_| {});
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| DeviceError::Lost(error.to_string()))?;
        let range = self.staging.get_mapped_range(..).map_err(|error| DeviceError::Refused(error.to_string()))?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&range);
        drop(range);
        self.staging.unmap();
        for (call, ticks) in self.calls.drain(..).zip(ticks.chunks_exact(2)) {
            // Some drivers let an end lie before its beginning by a tick.
            let seconds = ticks[1].saturating_sub(ticks[0]) as f64 * self.period * 1e-9;
            match self.times.get_mut(&call.kernel) {
                None => {
                    let call = KernelTime { seconds, ..call };
                    self.times.insert(call.kernel.clone(), call);
                }
                Some(sum) => {
                    sum.calls += 1;
                    sum.seconds += seconds;
                    sum.flops += call.flops;
                    sum.bytes += call.bytes;
                }
            }
        }
        Ok(())
    }

    /// The kernels timed so far, the slowest first.
    pub fn times(&self) -> Vec<KernelTime> {
        let mut times: Vec<KernelTime> = self.times.values().cloned().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }
}

fn name(choice: Choice, dispatch: &Dispatch) -> String {
    let entry = match choice.kernel.entry {
        "product" => String::new(),
        entry => format!("::{entry}"),
    };
    choice.name() + &entry + &dispatch.variant()
}

/// Bytes that a call reads and writes at least.
fn bytes(dispatch: &Dispatch) -> f64 {
    let bindings = dispatch.args.iter().zip(dispatch.kernel().bindings);
    bindings
        .filter(|(_, (_, access))| access.on_gpu())
        .map(|(arg, (_, access))| {
            let once = match arg {
                Arg::View(view) => view.len() * 4,
                // What is no product looks rows up: as many bytes as it writes, and far fewer than
                // the matrix has.
                Arg::Matrix(_) if dispatch.flops == 0.0 => 0,
                Arg::Matrix(Matrix::Dense { view, .. }) => view.len() * 4,
                Arg::Matrix(Matrix::Frozen { weight, rows, .. }) => rows * weight.dtype.row_bytes(weight.cols),
            };
            let times = if *access == Access::ReadWrite { 2 } else { 1 };
            (times * once) as f64
        })
        .sum()
}
