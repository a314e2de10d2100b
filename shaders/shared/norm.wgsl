// What the norms of rows have. One workgroup a row.

struct Params {
    rows: u32,
    dim: u32,
    eps: f32,
    accumulate: u32, // backward of rms_norm: 1 adds to dx, 0 overwrites it
}

const LANES = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
