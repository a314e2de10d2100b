// What every product has: its parameters, and how a sum becomes a part of the result. The shader
// around it has `result` and its shape in rows and columns, `shape`.

struct Params {
    tokens: u32, // M
    rows: u32,   // N, of the weight or of its gradient, a multiple of 4
    cols: u32,   // K, likewise; of 32 for block formats
    alpha: f32,
    beta: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

// result = alpha sum + beta result in four neighbours of a row. beta = 0 does not read the result.
// What lies beyond its edges was computed from what lies at them, and is dropped.
fn store(row: u32, column: u32, sum: vec4<f32>) {
    if row >= shape().x || column >= shape().y {
        return;
    }
    let at = (row * shape().y + column) / 4u;
    var value = params.alpha * sum;
    if params.beta != 0.0 {
        value += params.beta * result[at];
    }
    result[at] = value;
}
