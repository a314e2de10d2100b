//! Kernels made ready to run, each once.

use std::collections::HashMap;
use std::sync::Arc;

use super::sealed;
use crate::device::buffer::next_id;
use crate::device::error::DeviceError;
use crate::device::kernel::{Access, Defines};
use crate::device::recording::Choice;
use crate::device::tier::{self, Tier};

/// A kernel in the text of one tier and variant.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub id: u64,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// The pipelines so far.
#[derive(Debug)]
pub(super) struct Pipelines {
    device: wgpu::Device,
    /// Invocations of a workgroup that multiplies matrices.
    matrix_lanes: u32,
    /// What the driver made of the shaders, where the backend lets that be kept.
    cache: Option<wgpu::PipelineCache>,
    /// What a test makes of the shaders of a tier.
    pub rewrites: HashMap<Tier, fn(&str) -> String>,
    /// By shader, entry point, tier and variant.
    built: HashMap<(&'static str, &'static str, Tier, Defines), Arc<Pipeline>>,
}

impl Pipelines {
    /// `kept` is what [`Self::compiled`] gave in an earlier run.
    pub fn new(device: &wgpu::Device, info: &wgpu::AdapterInfo, kept: impl FnOnce() -> Option<Vec<u8>>) -> Self {
        let cache = device.features().contains(wgpu::Features::PIPELINE_CACHE).then(|| {
            let file = kept();
            let data = file.as_deref().and_then(sealed::unseal);
            let descriptor = wgpu::PipelineCacheDescriptor { label: Some("bft"), data, fallback: true };
            // SAFETY: the checksum says that `data` is what `get_data` gave; wgpu and the driver
            // look at its header for another adapter or version.
            unsafe { device.create_pipeline_cache(&descriptor) }
        });
        let (rewrites, built) = Default::default();
        Self { device: device.clone(), matrix_lanes: tier::lanes(info), cache, rewrites, built }
    }

    /// What the driver made of the shaders so far, with a checksum.
    pub fn compiled(&self) -> Option<Vec<u8>> {
        Some(sealed::seal(&self.cache.as_ref()?.get_data()?))
    }

    pub fn len(&self) -> usize {
        self.built.len()
    }

    /// The pipeline of a kernel, built when it is first asked for. What the driver refuses, the
    /// device's next check says.
    pub fn get(&mut self, choice: Choice, defines: Defines) -> Result<Arc<Pipeline>, DeviceError> {
        let key = (choice.kernel.shader, choice.kernel.entry, choice.needs, defines);
        if let Some(pipeline) = self.built.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.build(choice, defines)?);
        self.built.insert(key, pipeline.clone());
        Ok(pipeline)
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
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source.into()) };
        // A counter in every loop, which naga adds to stop endless ones, would keep drivers from
        // unrolling.
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        // SAFETY: the shaders are this crate's own, and each of their loops counts up to a bound.
        // Memory accesses stay checked.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: binding == 0, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for (_, access) in kernel.bindings.iter().filter(|(_, access)| access.on_gpu()) {
            let read_only = !matches!(access, Access::Write | Access::ReadWrite);
            let count = if *access == Access::Matrix { 2 } else { 1 };
            for _ in 0..count {
                entries.push(entry(entries.len() as u32, wgpu::BufferBindingType::Storage { read_only }));
            }
        }
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.cache.as_ref(),
        });
        Ok(Pipeline { id: next_id(), pipeline, layout })
    }
}
