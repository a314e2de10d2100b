// result[N, K] = alpha a[M, N]ᵀ b[M, K] + beta result, the gradient of a LoRA matrix: one of N and
// K is the rank, M the tokens. Sums run over the tokens in order.
//
// No workgroup memory: an invocation keeps 8 × 16 results in registers. Tiles are numbered along
// one axis of the grid, so that every invocation of a workgroup has one, however narrow the result
// is.
//!include shared/grid.wgsl
//!include shared/product.wgsl
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> result: array<vec4<f32>>;

fn shape() -> vec2<u32> {
    return vec2<u32>(params.rows, params.cols);
}

//!include shared/eight_rows.wgsl

const LANES: u32 = 8u;

fn step(acc: ptr<function, Row>, left: f32, right: ptr<function, Row>) {
    // Written out, here and below: SwiftShader's compiler would keep in memory what a variable
    // indexes.
    (*acc)[0] += left * (*right)[0];
    (*acc)[1] += left * (*right)[1];
    (*acc)[2] += left * (*right)[2];
    (*acc)[3] += left * (*right)[3];
}

@compute @workgroup_size(LANES)
fn product(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = flat_group(group, groups) * LANES + lane;
    let col_tiles = (params.cols + COLUMNS - 1u) / COLUMNS;
    let row = tile / col_tiles * ROWS;
    let col = tile % col_tiles * COLUMNS;
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
    var acc0: Row;
    var acc1: Row;
    var acc2: Row;
    var acc3: Row;
    var acc4: Row;
    var acc5: Row;
    var acc6: Row;
    var acc7: Row;

    for (var t = 0u; t < params.tokens; t++) {
        let at = t * cols4;
        var right = Row(b[at + b0], b[at + b1], b[at + b2], b[at + b3]);
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

    store_eight(row, col, &acc0, &acc1, &acc2, &acc3, &acc4, &acc5, &acc6, &acc7);
}
