//! What a call's shader sees: its parameters, in one buffer for all calls, and its operands.

use std::sync::atomic::Ordering;

use super::super::buffer::{Inner, Matrix, Storage, WeightStorage, next_id};
use super::super::recording::{Arg, Dispatch, MAX_PARAMS, Recording};
use super::super::{DeviceError, regroup};
use super::pipelines::{Cache, Pipeline};
use super::{Gpu, lock};

/// Distance of two parameter structs in the uniform arena: WebGPU's alignment of dynamic offsets.
pub(super) const UNIFORM_STRIDE: usize = 256;

impl Gpu {
    /// Drops bind groups whose buffers were dropped.
    pub(super) fn bury(&self, cache: &mut Cache) {
        let dead = std::mem::take(&mut *lock(&self.graveyard));
        if !dead.is_empty() {
            let dead: std::collections::HashSet<u64> = dead.into_iter().collect();
            cache.groups.retain(|(_, bindings), _| !bindings.iter().any(|(id, ..)| dead.contains(id)));
        }
    }

    /// Writes the parameters of every call; the buffer and its number.
    pub(super) fn upload_params(
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
        if cache.uniforms.as_ref().is_none_or(|(_, buffer)| buffer.size() < needed) {
            if let Some((old, _)) = cache.uniforms.take() {
                cache.groups.retain(|(_, bindings), _| bindings[0].0 != old);
            }
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: needed.next_power_of_two(),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            cache.uniforms = Some((next_id(), buffer));
        }
        let (id, buffer) = cache.uniforms.clone().expect("set above");
        if !bytes.is_empty() {
            self.counters.bytes_uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.queue.write_buffer(&buffer, 0, &bytes);
        }
        (id, buffer)
    }

    /// What tells a call's bind group from others' of its pipeline.
    pub(super) fn binding_key(
        &self,
        uniforms_id: u64,
        dispatch: &Dispatch,
    ) -> Result<Vec<(u64, usize, usize)>, DeviceError> {
        let mut key = vec![(uniforms_id, 0, 0)];
        self.for_each_binding(dispatch, |buffer, offset, len| key.push((buffer.id, offset, len)))?;
        Ok(key)
    }

    pub(super) fn bind_group(
        &self,
        pipeline: &Pipeline,
        uniforms: &wgpu::Buffer,
        dispatch: &Dispatch,
    ) -> Result<wgpu::BindGroup, DeviceError> {
        let params =
            wgpu::BufferBinding { buffer: uniforms, offset: 0, size: wgpu::BufferSize::new(MAX_PARAMS as u64) };
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
        self.for_each_binding(dispatch, |buffer, offset, len| {
            if let Storage::Gpu { buffer, .. } = &buffer.storage {
                let size = wgpu::BufferSize::new(len as u64 * 4);
                let resource =
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset as u64 * 4, size });
                entries.push(wgpu::BindGroupEntry { binding: entries.len() as u32, resource });
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
                Arg::Matrix(Matrix::Frozen { weight, start, rows }) => match &*weight.storage {
                    WeightStorage::Gpu { quants, scales } => {
                        let at = regroup::sizes(weight.dtype, *start, weight.cols);
                        let len = regroup::sizes(weight.dtype, *rows, weight.cols);
                        each(&quants.0, at.quants, len.quants);
                        each(&scales.0, at.scales, if len.scales == 0 { scales.len() } else { len.scales });
                    }
                    WeightStorage::Cpu(_) | WeightStorage::Planned => {
                        return Err(DeviceError::Misuse("a weight on the CPU is used by a GPU".into()));
                    }
                },
            }
        }
        Ok(())
    }
}
