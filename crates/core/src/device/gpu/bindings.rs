//! What a call's shader sees: its parameters, in one buffer for all calls, and its operands.

use std::collections::{HashMap, HashSet};

use super::link::Link;
use super::pipelines::Pipeline;
use crate::device::buffer::{Buffer, Inner, Matrix, Storage, WeightStorage, lock};
use crate::device::error::DeviceError;
use crate::device::recording::{Arg, Dispatch, MAX_PARAMS, Recording};

/// Distance of two parameter structs in the uniform arena: WebGPU's alignment of dynamic offsets.
pub(super) const UNIFORM_STRIDE: usize = 256;

/// Pipeline id, then (buffer id, offset, length) of each binding.
type GroupKey = (u64, Vec<(u64, usize, usize)>);

/// Bind groups and the buffer of all calls' parameters, kept from one recording to the next.
#[derive(Debug)]
pub(super) struct Bindings {
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    uniforms: Option<wgpu::Buffer>,
    /// Bound where a matrix has no scales.
    pub dummy: Buffer,
}

impl Bindings {
    pub fn new(link: &Link) -> Self {
        let buffer = link.buffer("unused", 256, wgpu::BufferUsages::STORAGE);
        let graveyard = link.graveyard.clone();
        let dummy = Buffer::new("unused", 64, Storage::Gpu { buffer, graveyard });
        Self { groups: HashMap::new(), uniforms: None, dummy }
    }

    /// Drops the groups whose buffers were dropped, and writes the parameters of every call of a
    /// recording.
    pub fn prepare(&mut self, link: &Link, recording: &Recording) {
        let dead: HashSet<u64> = std::mem::take(&mut *lock(&link.graveyard)).into_iter().collect();
        if !dead.is_empty() {
            self.groups.retain(|(_, bindings), _| !bindings.iter().any(|(id, ..)| dead.contains(id)));
        }
        let mut bytes = Vec::new();
        for dispatch in recording.dispatches() {
            bytes.extend_from_slice(&dispatch.params);
            bytes.resize(bytes.len().next_multiple_of(UNIFORM_STRIDE), 0);
        }
        let needed = bytes.len().max(UNIFORM_STRIDE) as u64;
        if self.uniforms.as_ref().is_none_or(|buffer| buffer.size() < needed) {
            // Every group binds the parameters.
            self.groups.clear();
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            self.uniforms = Some(link.buffer("parameters", needed.next_power_of_two(), usage));
        }
        if let Some(buffer) = &self.uniforms {
            link.write(buffer, 0, &bytes);
        }
    }

    /// The bind group of a call, made when it is first asked for.
    pub fn group(
        &mut self,
        device: &wgpu::Device,
        pipeline: &Pipeline,
        dispatch: &Dispatch,
    ) -> Result<&wgpu::BindGroup, DeviceError> {
        let mut key = (pipeline.id, Vec::with_capacity(dispatch.args.len() + 1));
        self.for_each(dispatch, |buffer, offset, len| key.1.push((buffer.id, offset, len)))?;
        if !self.groups.contains_key(&key) {
            let group = self.make(device, pipeline, dispatch)?;
            self.groups.insert(key.clone(), group);
        }
        Ok(&self.groups[&key])
    }

    fn make(
        &self,
        device: &wgpu::Device,
        pipeline: &Pipeline,
        dispatch: &Dispatch,
    ) -> Result<wgpu::BindGroup, DeviceError> {
        let mut entries = Vec::new();
        let mut add = |buffer, offset, bytes| {
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: wgpu::BufferSize::new(bytes),
            });
            entries.push(wgpu::BindGroupEntry { binding: entries.len() as u32, resource });
        };
        if let Some(uniforms) = &self.uniforms {
            add(uniforms, 0, MAX_PARAMS as u64);
        }
        self.for_each(dispatch, |buffer, offset, len| {
            if let Storage::Gpu { buffer, .. } = &buffer.storage {
                add(buffer, offset as u64 * 4, len as u64 * 4);
            }
        })?;
        let label = Some(dispatch.kernel().shader);
        Ok(device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &pipeline.layout, entries: &entries }))
    }

    /// Buffer, first element and length of each storage binding of a call.
    fn for_each<'a>(
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
                    each(&self.dummy.0, 0, self.dummy.0.len);
                }
                Arg::Matrix(Matrix::Frozen { weight, start, rows }) => match &*weight.storage {
                    WeightStorage::Gpu { quants, scales } => {
                        let (first, first_scale) = weight.dtype.gpu_words(*start, weight.cols);
                        let (len, scale_len) = weight.dtype.gpu_words(*rows, weight.cols);
                        each(&quants.0, first, len);
                        each(&scales.0, first_scale, if scale_len == 0 { scales.0.len } else { scale_len });
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
