// c[P, Q] = alpha a[T, P]ᵀ b[T, Q] + beta c, the gradient of a LoRA matrix: one of P and Q is the rank, T the tokens.
// beta = 0 does not read c. Sums run over the tokens in order.
//
// No workgroup memory: an invocation keeps 8 × 16 of c in registers. Tiles are numbered along one axis of the grid, so
// that every invocation of a workgroup has one, however narrow c is.
//!include shared/grid.wgsl

struct Params {
    tokens: u32, // T
    rows: u32,   // P, a multiple of 4
    cols: u32,   // Q, a multiple of 4
    alpha: f32,
    beta: f32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

const LANES: u32 = 8u;
const ROWS: u32 = 8u;
const COLS: u32 = 16u;

fn step(acc: ptr<function, array<vec4<f32>, 4>>, left: f32, right: ptr<function, array<vec4<f32>, 4>>) {
    for (var g = 0u; g < 4u; g++) {
        (*acc)[g] += left * (*right)[g];
    }
}

fn store(row: u32, col: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if row >= params.rows {
        return;
    }
    for (var g = 0u; g < 4u; g++) {
        if col + 4u * g < params.cols {
            let at = (row * params.cols + col) / 4u + g;
            var value = params.alpha * (*acc)[g];
            if params.beta != 0.0 {
                value += params.beta * c[at];
            }
            c[at] = value;
        }
    }
}

@compute @workgroup_size(LANES)
fn product(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flat_group(group, groups) * LANES + lane;
    let col_tiles = (params.cols + COLS - 1u) / COLS;
    let row = tile / col_tiles * ROWS;
    let col = tile % col_tiles * COLS;
    if row >= params.rows {
        return;
    }
    let rows4 = params.rows / 4u;
    let cols4 = params.cols / 4u;
    let a0 = row / 4u;
    let a1 = min(a0 + 1u, rows4 - 1u);
    var acc0: array<vec4<f32>, 4>;
    var acc1: array<vec4<f32>, 4>;
    var acc2: array<vec4<f32>, 4>;
    var acc3: array<vec4<f32>, 4>;
    var acc4: array<vec4<f32>, 4>;
    var acc5: array<vec4<f32>, 4>;
    var acc6: array<vec4<f32>, 4>;
    var acc7: array<vec4<f32>, 4>;

    for (var t = 0u; t < params.tokens; t++) {
        var right: array<vec4<f32>, 4>;
        for (var g = 0u; g < 4u; g++) {
            right[g] = b[t * cols4 + min(col / 4u + g, cols4 - 1u)];
        }
        let low = a[t * rows4 + a0];
        step(&acc0, low.x, &right);
        step(&acc1, low.y, &right);
        step(&acc2, low.z, &right);
        step(&acc3, low.w, &right);
        let high = a[t * rows4 + a1];
        step(&acc4, high.x, &right);
        step(&acc5, high.y, &right);
        step(&acc6, high.z, &right);
        step(&acc7, high.w, &right);
    }

    store(row, col, &acc0);
    store(row + 1u, col, &acc1);
    store(row + 2u, col, &acc2);
    store(row + 3u, col, &acc3);
    store(row + 4u, col, &acc4);
    store(row + 5u, col, &acc5);
    store(row + 6u, col, &acc6);
    store(row + 7u, col, &acc7);
}
