use super::{Random, assert_close, wide};
use bft_formats::Gate;

use crate::cpu::{dot, exp_sub_sum, gate_mul, gate_mul_backward, max, sum_exp_sub};
use crate::real::Real;

const LENGTHS: [usize; 14] = [0, 1, 3, 4, 7, 15, 16, 17, 63, 64, 65, 100, 576, 1001];

/// Distance in units in the last place of `a`, or of the smallest normal number.
fn ulps(a: f32, exact: f64) -> f64 {
    let exponent = (exact.abs().max(f64::from(f32::MIN_POSITIVE))).log2().floor();
    (f64::from(a) - exact).abs() / (exponent - 23.0).exp2()
}

#[test]
fn the_exponential_is_within_two_units_in_the_last_place() {
    let mut worst = (0.0, 0.0);
    let mut x: Vec<f32> = (0..2_000_003).map(|i| -104.0 + i as f32 * 1e-4 * 0.963).collect();
    let inputs = x.clone();
    exp_sub_sum(&mut x, 0.0);
    for (&x, &y) in inputs.iter().zip(&x) {
        let exact = f64::from(x).exp();
        if exact > f64::from(f32::MAX) {
            assert_eq!(y, f32::INFINITY, "exp({x})");
            continue;
        }
        let error = ulps(y, exact);
        if error > worst.0 {
            worst = (error, x);
        }
    }
    assert!(worst.0 < 2.0, "{} units at {}", worst.0, worst.1);
}

#[test]
fn the_exponential_of_what_is_not_a_number_or_not_finite() {
    let mut x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1000.0, -1000.0];
    exp_sub_sum(&mut x, 0.0);
    assert!(x[0].is_nan());
    assert_eq!(x[1..], [f32::INFINITY, 0.0, 1.0, 1.0, f32::INFINITY, 0.0]);
    // In a whole vector as in the rest of one.
    let mut x = [f32::NAN; 33];
    assert!(exp_sub_sum(&mut x, 0.0).is_nan() && x.iter().all(|x| x.is_nan()));
}

#[test]
fn rows_of_every_length_match_the_formulas() {
    let mut random = Random::new(1);
    for n in LENGTHS {
        let x: Vec<f32> = random.floats(n, -1.0, 1.0).iter().map(|x| x * 9.0).collect();
        let y = random.floats(n, -1.0, 1.0);
        let (x64, y64) = (wide(&x), wide(&y));
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(max(&x), largest);
        let mut holed = x.clone();
        holed.extend([f32::NAN, 100.0, f32::NAN]);
        assert_eq!(max(&holed), 100.0);
        holed.rotate_left(n + 1);
        assert_eq!(max(&holed), 100.0);
        let product: f64 = x64.iter().zip(&y64).map(|(a, b)| a * b).sum();
        let size: f64 = x64.iter().zip(&y64).map(|(a, b)| (a * b).abs()).sum();
        assert!((f64::from(dot(&x, &y)) - product).abs() <= 5e-7 * size, "dot of {n}");
        let exps: Vec<f64> = x64.iter().map(|x| (x - f64::from(largest)).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let mut e = x.clone();
        let total = exp_sub_sum(&mut e, largest);
        assert_close("exp", &e, &exps, 1e-6);
        assert_close("sums", &[total, sum_exp_sub(&x, largest)], &[sum, sum], 5e-7);
        [Gate::Silu, Gate::Gelu, Gate::GeluTanh].into_iter().for_each(|kind| check_gate(kind, &x, &y));
    }
}

fn check_gate(kind: Gate, gate: &[f32], up: &[f32]) {
    let n = gate.len();
    let dy: Vec<f32> = up.iter().map(|u| 1.0 - u).collect();
    let mut out = [vec![f32::NAN; n], vec![f32::NAN; n], vec![f32::NAN; n]];
    let mut exact = [vec![f64::NAN; n], vec![f64::NAN; n], vec![f64::NAN; n]];
    let [y, d_gate, d_up] = &mut out;
    gate_mul(kind, gate, up, y);
    gate_mul_backward(kind, gate, up, &dy, d_gate, d_up);
    let [y, d_gate, d_up] = &mut exact;
    gate_mul(kind, &wide(gate), &wide(up), y);
    gate_mul_backward(kind, &wide(gate), &wide(up), &wide(&dy), d_gate, d_up);
    for (out, exact) in out.iter().zip(&exact) {
        assert_close(&format!("{kind:?}"), out, exact, if kind == Gate::Silu { 1e-6 } else { 2e-6 });
    }
    // And those by the slope of the formula.
    let h = 1e-6;
    let f = |g: f64, u: f64| match kind {
        Gate::Silu => g / (1.0 + (-g).exp()) * u,
        Gate::Gelu => 0.5 * g * Real::erfc(-g / std::f64::consts::SQRT_2) * u,
        Gate::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
            0.5 * g * (1.0 + inner.tanh()) * u
        }
    };
    for i in 0..n {
        let (g, u, dy) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dy[i]));
        assert!((exact[0][i] - f(g, u)).abs() < 1e-12);
        assert!((exact[1][i] - dy * (f(g + h, u) - f(g - h, u)) / (2.0 * h)).abs() < 1e-7);
        assert!((exact[2][i] - dy * f(g, 1.0)).abs() < 1e-12);
    }
}

#[test]
fn gates_of_extremes_are_finite() {
    for kind in [Gate::Silu, Gate::Gelu, Gate::GeluTanh] {
        let gate = [-1000.0, -100.0, -88.5, 0.0, 88.5, 100.0, 1000.0];
        let mut out = [[0.0f32; 7]; 3];
        let [y, d_gate, d_up] = &mut out;
        gate_mul(kind, &gate, &[1.0; 7], y);
        gate_mul_backward(kind, &gate, &[1.0; 7], &[1.0; 7], d_gate, d_up);
        assert_eq!(*y, [0.0, 0.0, y[2], 0.0, 88.5, 100.0, 1000.0]);
        assert!(out.iter().flatten().all(|x| x.is_finite()), "{out:?}");
    }
}
