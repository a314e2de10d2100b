// A grid dimension holds at most 65,535 workgroups: longer one-dimensional grids are folded over x and y.
fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
