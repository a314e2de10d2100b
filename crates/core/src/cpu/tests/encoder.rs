use bft_formats::Activation;

use super::{Random, assert_close, wide};
use crate::cpu::{LayerNorm, activate};

const LENGTHS: [usize; 10] = [1, 2, 4, 7, 15, 16, 17, 63, 384, 1001];

/// f(x) of every kind, in f32 and in f64.
fn activated(kind: Activation, x: &[f32]) -> (Vec<f32>, Vec<f64>) {
    let (mut y, mut exact) = (vec![f32::NAN; x.len()], vec![f64::NAN; x.len()]);
    activate(kind, x, &vec![0.0; x.len()], &mut y);
    activate(kind, &wide(x), &vec![0.0; x.len()], &mut exact);
    (y, exact)
}

#[test]
fn gelu_is_x_times_the_normal_distribution_function() {
    // Of a table: Φ(0.5), Φ(1), Φ(2), Φ(3).
    let known: [(f64, f64); 5] = [
        (0.0, 0.5),
        (0.5, 0.691_462_461_274_013),
        (1.0, 0.841_344_746_068_543),
        (2.0, 0.977_249_868_051_821),
        (3.0, 0.998_650_101_968_370),
    ];
    for (x, cdf) in known {
        for (x, cdf) in [(x, cdf), (-x, 1.0 - cdf)] {
            let mut y = [0.0];
            activate(Activation::Gelu, &[x], &[0.0], &mut y);
            assert!((y[0] - x * cdf).abs() < 1e-14, "gelu({x}) = {}", y[0]);
        }
    }
}

#[test]
fn activations_in_f32_match_f64() {
    let x: Vec<f32> = (-200_000..200_000).map(|i| i as f32 * 6.1e-5).collect();
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let (y, exact) = activated(kind, &x);
        for ((x, y), exact) in x.iter().zip(&y).zip(&exact) {
            // The result is never larger than x, and as small as it is in the left tail it is as
            // exact.
            let error = (f64::from(*y) - exact).abs();
            let allowed = 2e-6 * exact.abs() + 1e-7 * f64::from(x.abs()).min(1.0);
            assert!(error <= allowed, "{kind:?}({x}) is {y}, exactly {exact}");
        }
        let (y, _) = activated(kind, &[f32::NAN, 3e38, -3e38]);
        assert!(y[0].is_nan(), "{kind:?} of NaN");
        assert_eq!(y[1..], [3e38, 0.0], "{kind:?}");
    }
}

#[test]
fn layer_norms_of_every_length_match_the_formula() {
    let mut random = Random::new(5);
    for n in LENGTHS {
        // A mean that is large beside the deviation must not eat the digits.
        let x: Vec<f32> = random.floats(n, -1.0, 1.0).iter().map(|x| x + 30.0).collect();
        let [r, shift, weight, bias] = [(); 4].map(|()| random.floats(n, -1.0, 1.0));
        let z: Vec<f64> = (0..n).map(|i| f64::from(x[i]) + f64::from(r[i]) + f64::from(shift[i])).collect();
        let mean = z.iter().sum::<f64>() / n as f64;
        let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / n as f64;
        let exact: Vec<f64> = (0..n)
            .map(|i| {
                let normed = (z[i] - mean) / (variance + 1e-3).sqrt();
                normed * f64::from(weight[i]) + f64::from(bias[i])
            })
            .collect();
        let mut y = vec![f32::NAN; n];
        let norm = LayerNorm { shift: &shift, weight: &weight, eps: 1e-3 };
        norm.forward(&x, &r, &bias, &mut y);
        assert_close(&format!("layer norm of {n}"), &y, &exact, 2e-5);
    }
}
