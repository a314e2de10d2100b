//! Kernels made ready to run, each once.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::DeviceError;
use super::super::buffer::next_id;
use super::super::recording::{Access, Choice, Defines, Kernel, Recording};
use super::super::tier::Tier;
use super::{Gpu, lock};

/// A kernel in the text of one tier and variant.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub id: u64,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipeline id, then (buffer id, offset, length) of each binding.
pub(super) type GroupKey = (u64, Vec<(u64, usize, usize)>);

/// What calls are encoded with, kept from one recording to the next.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pipelines: HashMap<(*const Kernel, Tier, Defines), Arc<Pipeline>>,
    pub groups: HashMap<GroupKey, wgpu::BindGroup>,
    /// The buffer of all calls' parameters, and its number.
    pub uniforms: Option<(u64, wgpu::Buffer)>,
}

// SAFETY: the raw pointer is only an identity of a `&'static Kernel`, never dereferenced.
unsafe impl Send for Cache {}

impl Gpu {
    /// The pipeline of a kernel, built when it is first asked for.
    pub(super) fn pipeline(
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
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source.into()) };
        // A counter in every loop, which naga adds to stop endless ones, would keep drivers from unrolling.
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        // SAFETY: the shaders are this crate's own, and each of their loops counts up to a bound. Memory accesses
        // stay checked.
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
            cache: self.compiled.as_ref(),
        });
        self.check()?;
        Ok(Pipeline { id: next_id(), pipeline, layout })
    }
}
