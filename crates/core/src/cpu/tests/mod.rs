//! Every kernel against the formula in f64, written without any of the kernels.

mod attention;
mod encoder;
mod math;
mod products;
mod split;
mod team;

pub(super) use bft_formats::Random;

/// The largest |a − b| may be `tolerance` of the largest |b|.
#[track_caller]
pub(super) fn assert_close(what: &str, a: &[f32], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let size = b.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        let error = (f64::from(a) - b).abs() / size;
        assert!(
            error <= tolerance, // Also false for a NaN.
            "{what}: element {i} is {a}, expected {b} (error {error:.2e} of the largest)"
        );
    }
}

pub(super) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// This program again, held to each lesser instruction set of this processor.
#[test]
fn lesser_instruction_sets_pass_the_same_tests() {
    if std::env::var_os("BFT_SIMD").is_some() {
        return;
    }
    for level in ["avx512", "avx2", "portable"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("cpu::tests::")
            .env("BFT_SIMD", level)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains("running 0 tests"), "{level}:\n{text}");
    }
}
