// Two vec4 of terms, a run: eight products are summed in f16, and the run's sum is added in f32.
// Cards that multiply two f16 at once do 16 multiply-adds, 4 conversions and 4 additions a token
// for four outputs, where f32 has 32 multiply-adds.
//
// A longer run would cost less and round more: each of a run's sums errs by 2⁻¹¹ of itself at most.
// A run is infinite where it passes 65,504, as with inputs of 8,188 and weights of 1 throughout;
// and below 6e-5 it loses digits.
const RUN4: u32 = 2u; // terms of a step, in vec4

// Slots are mixed by bits: the odd vec4 of a pair lies where the lowest bit of its place is the
// other one.
struct Inputs { low: vec4<Real>, high: vec4<Real> }
struct Weights { low: mat4x4<Real>, high: mat4x4<Real> }

fn inputs(at: u32) -> Inputs {
    return Inputs(x_tile[at], x_tile[at ^ 1u]);
}

fn four_terms(at: u32) -> mat4x4<Real> {
    return transpose(mat4x4<Real>(w_tile[at], w_tile[at + DEPTH4], w_tile[at + 2u * DEPTH4], w_tile[at + 3u * DEPTH4]));
}

fn weights(at: u32) -> Weights {
    return Weights(four_terms(at), four_terms(at ^ 1u));
}

fn step(acc: vec4<f32>, terms: Inputs, w: Weights) -> vec4<f32> {
    var run = terms.low.x * w.low[0];
    run = fma(vec4<Real>(terms.low.y), w.low[1], run);
    run = fma(vec4<Real>(terms.low.z), w.low[2], run);
    run = fma(vec4<Real>(terms.low.w), w.low[3], run);
    run = fma(vec4<Real>(terms.high.x), w.high[0], run);
    run = fma(vec4<Real>(terms.high.y), w.high[1], run);
    run = fma(vec4<Real>(terms.high.z), w.high[2], run);
    run = fma(vec4<Real>(terms.high.w), w.high[3], run);
    return acc + vec4<f32>(run);
}
