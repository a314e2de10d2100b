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
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable indexes.
    (*acc)[0] += left * (*right)[0];
    (*acc)[1] += left * (*right)[1];
    (*acc)[2] += left * (*right)[2];
    (*acc)[3] += left * (*right)[3];
}

fn store4(row: u32, col: u32, acc: vec4<f32>) {
    if col >= params.cols {
        return;
    }
    let at = (row * params.cols + col) / 4u;
    var value = params.alpha * acc;
    if params.beta != 0.0 {
        value += params.beta * c[at];
    }
    c[at] = value;
}

fn store(row: u32, col: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    if row >= params.rows {
        return;
    }
    store4(row, col, (*acc)[0]);
    store4(row, col + 4u, (*acc)[1]);
    store4(row, col + 8u, (*acc)[2]);
    store4(row, col + 12u, (*acc)[3]);
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
    let b0 = col / 4u;
    let b1 = min(b0 + 1u, cols4 - 1u);
    let b2 = min(b0 + 2u, cols4 - 1u);
    let b3 = min(b0 + 3u, cols4 - 1u);
    var acc0: array<vec4<f32>, 4>;
    var acc1: array<vec4<f32>, 4>;
    var acc2: array<vec4<f32>, 4>;
    var acc3: array<vec4<f32>, 4>;
    var acc4: array<vec4<f32>, 4>;
    var acc5: array<vec4<f32>, 4>;
    var acc6: array<vec4<f32>, 4>;
    var acc7: array<vec4<f32>, 4>;

    for (var t = 0u; t < params.tokens; t++) {
        let at = t * cols4;
        var right = array<vec4<f32>, 4>(b[at + b0], b[at + b1], b[at + b2], b[at + b3]);
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

    // One store in the code instead of eight: its many checks are what a browser's compiler spends its memory on.
    for (var r = 0u; r < ROWS; r++) {
        var acc = acc0;
        switch r {
            case 1u: { acc = acc1; }
            case 2u: { acc = acc2; }
            case 3u: { acc = acc3; }
            case 4u: { acc = acc4; }
            case 5u: { acc = acc5; }
            case 6u: { acc = acc6; }
            case 7u: { acc = acc7; }
            default: {}
        }
        store(row + r, col, &acc);
    }
}
