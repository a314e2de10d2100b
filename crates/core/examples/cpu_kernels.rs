//! Rates of the CPU kernels at SmolLM2's shapes, each product alternating with the crate `gemm` on dense f32.
//!
//! `cargo run --release -p bft-core --example cpu_kernels [-- PART-OF-A-NAME]`; RAYON_NUM_THREADS sets the threads.
//! Every line is the best of many short runs, so that a busy machine disturbs it little; compare ratios.

use std::time::{Duration, Instant};

use bft_core::cpu::{
    AttentionInputs, AttentionOutputs, AttentionShape, WeightRef, attention_backward, attention_cached,
    attention_forward, exp_sub_sum, gate_mul, gemm_nn, gemm_nt, gemm_tn, linear_nn, linear_nt, sum_exp_sub,
};
use bft_formats::{DType, Gate};

/// (out, in) of q and o, k and v, gate and up, down, and a chunk of the vocabulary.
const MATRICES: [(usize, usize); 5] = [(576, 576), (192, 576), (1536, 576), (576, 1536), (4096, 576)];
const TOKENS: usize = 1024;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    println!("{} threads, {TOKENS} tokens", rayon::current_num_threads());
    println!("{:<40} {:>10} {:>10} {:>6}", "GFLOP/s", "bft", "gemm", "ratio");
    for dtype in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_1] {
        for (rows, cols) in MATRICES {
            frozen(dtype, rows, cols, TOKENS, &wanted);
        }
    }
    for tokens in [1, 4, 8, 16, 32, 64, 128, 192, 256, 512] {
        frozen(DType::Q4_1, 1536, 576, tokens, &wanted);
    }
    for (rank, width) in [(16, 576), (16, 192), (16, 1536), (32, 576), (64, 576)] {
        lora(rank, width, &wanted);
    }
    attention(&wanted);
    rows(&wanted);
}

fn random(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Blocks of random quants whose scales are small finite halves.
fn weight(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    if dtype == DType::F32 {
        return random(rows * cols).iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    let byte = |i: usize| {
        if i % 2 == 1 { 0x20 | (i * 7 % 8) as u8 } else { (i * 31) as u8 }
    };
    (0..rows * dtype.row_bytes(cols)).map(byte).collect()
}

/// The best times of two computations that take turns for a while.
fn alternate(mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds < 5 || begin.elapsed() < Duration::from_millis(800) {
        let start = Instant::now();
        a();
        let middle = Instant::now();
        b();
        best.0 = best.0.min((middle - start).as_secs_f64());
        best.1 = best.1.min(middle.elapsed().as_secs_f64());
        rounds += 1;
    }
    best
}

fn compare(name: &str, flops: usize, ours: impl FnMut(), theirs: impl FnMut()) {
    let (a, b) = alternate(ours, theirs);
    let rate = |seconds: f64| flops as f64 / seconds / 1e9;
    println!("{name:<40} {:>10.1} {:>10.1} {:>6.2}", rate(a), rate(b), b / a);
}

/// C[m, n] = A[m, k] · B[k, n] by the crate `gemm`, with (row, column) strides.
fn dense(
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    a_strides: (usize, usize),
    b: &[f32],
    b_strides: (usize, usize),
    c: &mut [f32],
) {
    assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
    let (c_row, c_col) = (n as isize, 1);
    // SAFETY: the strides address the dense matrices whose sizes are asserted.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_col,
            c_row,
            false,
            a.as_ptr(),
            a_strides.1 as isize,
            a_strides.0 as isize,
            b.as_ptr(),
            b_strides.1 as isize,
            b_strides.0 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

fn frozen(dtype: DType, rows: usize, cols: usize, tokens: usize, wanted: &dyn Fn(&str) -> bool) {
    let data = weight(dtype, rows, cols);
    let w = WeightRef { dtype, rows, cols, data: &data };
    let (x, dy, w_dense) = (random(tokens * cols), random(tokens * rows), random(rows * cols));
    let (mut y, mut dx) = (vec![0.0; tokens * rows], vec![0.0; tokens * cols]);
    let (mut y_dense, mut dx_dense) = (y.clone(), dx.clone());
    let flops = 2 * tokens * rows * cols;
    let name = format!("forward {tokens} x {dtype} [{rows}, {cols}]");
    if wanted(&name) {
        let size = (tokens, rows, cols);
        compare(
            &name,
            flops,
            || linear_nt(&x, w, &mut y, tokens, 1.0, 0.0),
            || dense(size, &x, (cols, 1), &w_dense, (1, cols), &mut y_dense),
        );
    }
    let name = format!("backward {tokens} x {dtype} [{rows}, {cols}]");
    if wanted(&name) {
        let size = (tokens, cols, rows);
        compare(
            &name,
            flops,
            || linear_nn(&dy, w, &mut dx, tokens, 1.0, 0.0),
            || dense(size, &dy, (rows, 1), &w_dense, (cols, 1), &mut dx_dense),
        );
    }
}

/// The six products of one adapter, whose input and output are equally wide here.
fn lora(rank: usize, width: usize, wanted: &dyn Fn(&str) -> bool) {
    let (x, t, a) = (random(TOKENS * width), random(TOKENS * rank), random(rank * width));
    let wide = || vec![0.0; TOKENS * width];
    let narrow = || vec![0.0; TOKENS * rank];
    let flops = 2 * TOKENS * rank * width;
    let run = |name: &str, ours: &mut dyn FnMut(), theirs: &mut dyn FnMut()| {
        let name = format!("lora {name} rank {rank} width {width}");
        if wanted(&name) {
            compare(&name, flops, ours, theirs);
        }
    };
    let (m, r, k) = (TOKENS, rank, width);
    let (mut c, mut d) = (narrow(), narrow());
    run("t = x·Aᵀ", &mut || gemm_nt(&x, &a, &mut c, m, r, k, 1.0, 0.0), &mut || {
        dense((m, r, k), &x, (k, 1), &a, (1, k), &mut d);
    });
    run("dt = dy·B", &mut || gemm_nn(&x, &a, &mut c, m, r, k, 1.0, 0.0), &mut || {
        dense((m, r, k), &x, (k, 1), &a, (r, 1), &mut d);
    });
    let (mut c, mut d) = (wide(), wide());
    run("y = t·Bᵀ", &mut || gemm_nt(&t, &a, &mut c, m, k, r, 1.0, 0.0), &mut || {
        dense((m, k, r), &t, (r, 1), &a, (1, r), &mut d);
    });
    run("dx = dt·A", &mut || gemm_nn(&t, &a, &mut c, m, k, r, 1.0, 0.0), &mut || {
        dense((m, k, r), &t, (r, 1), &a, (k, 1), &mut d);
    });
    let (mut c, mut d) = (a.clone(), a.clone());
    run("dA = dtᵀ·x", &mut || gemm_tn(&t, &x, &mut c, r, k, m, 1.0, 0.0), &mut || {
        dense((r, k, m), &t, (1, r), &x, (k, 1), &mut d);
    });
    run("dB = dyᵀ·t", &mut || gemm_tn(&x, &t, &mut c, k, r, m, 1.0, 0.0), &mut || {
        dense((k, r, m), &x, (1, k), &t, (r, 1), &mut d);
    });
}

fn alone(name: &str, work: f64, unit: &str, run: impl FnMut()) {
    let (seconds, _) = alternate(run, || ());
    println!("{name:<40} {:>10.2} {unit} {:>10.1} µs", work / seconds / 1e9, seconds * 1e6);
}

fn attention(wanted: &dyn Fn(&str) -> bool) {
    let shape =
        AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, causal: true, window: None, scale: None, cap: None };
    for (samples, length) in [(16, 64), (4, 256), (1, 1024), (1, 4096)] {
        let name = format!("attention {samples} x {length}");
        if !wanted(&name) {
            continue;
        }
        let n = samples * length;
        let segments: Vec<u32> = (0..=samples).map(|s| (s * length) as u32).collect();
        let (q, k, v, d_o) = (random(n * 576), random(n * 192), random(n * 192), random(n * 576));
        let x = AttentionInputs { q: &q, k: &k, v: &v, shape };
        let (mut o, mut lse) = (vec![0.0; n * 576], vec![0.0; n * 9]);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        // A product with scores that a query does not see is not counted.
        let product = 2.0 * (9 * 64 * samples * length * (length + 1) / 2) as f64;
        alone(&format!("{name} forward"), 2.0 * product, "GFLOP/s", || {
            attention_forward(x, &segments, &mut o, &mut lse);
        });
        alone(&format!("{name} backward"), 5.0 * product, "GFLOP/s", || {
            let y = AttentionOutputs { o: &o, lse: &lse, d_o: &d_o };
            attention_backward(x, y, &segments, [&mut dq, &mut dk, &mut dv]);
        });
    }
    for past in [100, 1000] {
        let name = format!("attention 1 token after {past}");
        if wanted(&name) {
            let (q, k, v) = (random(576), random((past + 1) * 192), random((past + 1) * 192));
            let x = AttentionInputs { q: &q, k: &k, v: &v, shape };
            let mut o = vec![0.0; 576];
            alone(&name, (4 * 576 * past) as f64, "GFLOP/s", || {
                attention_cached(x, past, &mut o);
            });
        }
    }
}

/// One thread, data in the first cache.
fn rows(wanted: &dyn Fn(&str) -> bool) {
    const N: usize = 4096;
    let (x, up) = (random(N), random(N));
    let mut y = x.clone();
    if wanted("row exp_sub_sum") {
        alone("row exp_sub_sum", N as f64, "G/s", || {
            y.copy_from_slice(&x);
            exp_sub_sum(&mut y, 1.0);
        });
    }
    if wanted("row sum_exp_sub") {
        alone("row sum_exp_sub", N as f64, "G/s", || {
            std::hint::black_box(sum_exp_sub(&x, 1.0));
        });
    }
    if wanted("row gate_mul") {
        alone("row gate_mul", N as f64, "G/s", || gate_mul(Gate::Silu, &x, &up, &mut y));
    }
}
