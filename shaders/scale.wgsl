// A multiple, in place. One invocation an element.
//!include shared/elements.wgsl

struct Params {
    len: u32,
    factor: f32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(LANES)
fn scale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = element(group, groups, lane);
    if i < params.len {
        x[i] *= params.factor;
    }
}
