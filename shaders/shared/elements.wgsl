// One invocation an element, or whatever the shader counts. A grid dimension holds at most 65,535
// workgroups: longer one-dimensional grids are folded over x and y. The shader around it has
// `Params`.
const LANES = 64u;

@group(0) @binding(0) var<uniform> params: Params;

// Where an invocation stands. An entry point must read `groups` itself: DirectX knows it nowhere
// else.
struct Place {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

fn element(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * LANES + lane;
}
