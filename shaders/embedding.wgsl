// Rows of a frozen matrix, picked by id and decoded. One invocation a chunk of a row.
//!include shared/elements.wgsl
//!include shared/weight_{WEIGHT}.wgsl

struct Params {
    tokens: u32,
    cols: u32,
    first: u32, // id of the matrix's first row: ids outside of the bound rows are left alone
    rows: u32,
}

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn forward(at: Place) {
    let row_chunks = params.cols / CHUNK;
    let index = element(at.group, at.groups, at.lane);
    let token = index / row_chunks;
    if token >= params.tokens {
        return;
    }
    let row = ids[token] - params.first;
    if ids[token] < params.first || row >= params.rows {
        return;
    }
    let column = index % row_chunks;
    let chunk = load_chunk(row * row_chunks + column);
    let base = (token * row_chunks + column) * (CHUNK / 4u);
    for (var i = 0u; i < CHUNK / 4u; i++) {
        y[base + i] = weight4(chunk, i);
    }
}
