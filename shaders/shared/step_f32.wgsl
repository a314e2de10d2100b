// One vec4 of terms: 16 multiply-adds a token for four outputs.
const RUN4: u32 = 1u; // terms of a step, in vec4

alias Inputs = vec4<f32>;
alias Weights = mat4x4<f32>; // a term's four outputs in each column

fn inputs(at: u32) -> Inputs {
    return x_tile[at];
}

fn weights(at: u32) -> Weights {
    return transpose(mat4x4<f32>(w_tile[at], w_tile[at + DEPTH4], w_tile[at + 2u * DEPTH4], w_tile[at + 3u * DEPTH4]));
}

fn step(acc: vec4<f32>, terms: Inputs, w: Weights) -> vec4<f32> {
    let low = fma(vec4<f32>(terms.y), w[1], fma(vec4<f32>(terms.x), w[0], acc));
    return fma(vec4<f32>(terms.w), w[3], fma(vec4<f32>(terms.z), w[2], low));
}
