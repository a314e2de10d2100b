// The builtins of an entry point are parameters, not members of a struct: Chrome's compiler takes a
// struct of them for non-uniform as a whole, and refuses every barrier behind it.

// A grid dimension holds at most 65,535 workgroups: longer one-dimensional grids are folded over x
// and y.
fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
