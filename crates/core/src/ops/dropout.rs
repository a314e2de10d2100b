//! Dropout (of LoRA's input), whose mask is a function of a key and an element's index.
//!
//! With x, y, dy, dx of one length and m_i = 1/(1 − p) with probability 1 − p, else 0:
//! - forward: y_i = m_i·x_i
//! - backward: dx_i += m_i·dy_i; the same key draws the same m, so no mask is kept.
//!
//! The generator is Philox-4x32-7 (SC 2011), counter-based and in integers: CPU and GPU drop the
//! same elements.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        threshold: u32,
        scale: f32,
        accumulate: u32,
        key: [u32; 4],
    }
}

kernels! { KERNELS of Params:
    APPLY = "dropout"::apply(x: Read, y: ReadWrite) => apply_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "dropout", kernels: KERNELS, variants: &[&[]], cases };

fn record(rec: &mut Recording, x: &View, y: &View, p: f32, key: [u32; 4], accumulate: bool) {
    let params = Params {
        len: x.len() as u32,
        // The cast saturates, so p = 1 drops all but one word in 2³².
        threshold: (f64::from(p) * f64::from(u32::MAX)).round() as u32,
        scale: 1.0 / (1.0 - p),
        accumulate: accumulate.into(),
        key,
    };
    rec.dispatch(&APPLY, &params, [x, y], groups(x.len().div_ceil(4)));
}

/// y = m·x with p in 0..1. `key` is the seed's low and high word, a stream (the module) and a pass
/// (the micro-batch).
pub fn apply(rec: &mut Recording, x: &View, y: &View, p: f32, key: [u32; 4]) {
    record(rec, x, y, p, key, false);
}

/// dx += m·dy, with the mask that [`apply`] drew from this key.
pub fn accumulate(rec: &mut Recording, dy: &View, dx: &View, p: f32, key: [u32; 4]) {
    record(rec, dy, dx, p, key, true);
}

/// Philox-4x32 with `ROUNDS` rounds.
fn philox<const ROUNDS: usize>(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    for _ in 0..ROUNDS {
        let (high_0, low_0) = product(0xD251_1F53, c[0]);
        let (high_2, low_2) = product(0xCD9E_8D57, c[2]);
        c = [high_2 ^ c[1] ^ key[0], low_2, high_0 ^ c[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// The random words of elements `4 * four..4 * four + 4`.
fn words(four: u32, key: [u32; 4]) -> [u32; 4] {
    philox::<7>([four, key[2], key[3], 0], [key[0], key[1]])
}

fn apply_cpu<T: Real>(call: Call<'_, T>) {
    const { assert!(CPU_CHUNK.is_multiple_of(4)) };
    let params: Params = call.params();
    let [x, y] = call.args();
    let scale = T::from_f32(params.scale);
    let chunks = y.write().par_chunks_mut(CPU_CHUNK).zip(x.read().par_chunks(CPU_CHUNK));
    chunks.enumerate().for_each(|(chunk, (y, x))| {
        let first = chunk * CPU_CHUNK / 4;
        for (i, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let words = words((first + i) as u32, params.key);
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                match (word >= params.threshold, params.accumulate == 1) {
                    (true, true) => *y += *x * scale,
                    (true, false) => *y = *x * scale,
                    (false, true) => {}
                    (false, false) => *y = T::ZERO,
                }
            }
        }
    });
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, p, key) in [
        (70, 0.5, [1, 2, 3, 4]),
        (1, 0.5, [1, 2, 3, 4]),
        (3, 0.9, [u32::MAX; 4]),
        (255, 0.1, [7, 0, 0, 0]),
        (256, 0.1, [7, 0, 1, 0]),
        (257, 0.1, [7, 0, 0, 1]),
        (1000, 0.0, [0; 4]),
        (100_003, 0.05, [0xdead_beef, 0x1234_5678, 209, 77]),
    ] {
        cases.push(
            Case::new(format!("{len} elements, p = {p}, key {key:?}"), move |rec, t| {
                apply(rec, t.view("x"), t.view("y"), p, key);
            })
            .input("x", &[len], Fill::Between(0.5, 2.0))
            .output("y", &[len])
            .upstream("y", "dy", &[len])
            .gradient("x", "dx", &[len])
            .backward(move |rec, t| {
                rec.clear(t.view("dx"));
                accumulate(rec, t.view("dy"), t.view("dx"), p, key);
            })
            // One product of the same two numbers: every bit is the same.
            .tolerance(0.0),
        );
    }
    cases.push(
        Case::new("adds to dx", |rec, t| {
            accumulate(rec, t.view("dy"), t.view("dx"), 0.3, [5, 6, 7, 8]);
        })
        .input("dy", &[130], Fill::Random(1.0))
        .input("dx", &[130], Fill::Random(1.0))
        .updates("dx"),
    );
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that the generator's authors publish.
    #[test]
    fn philox_gives_the_published_words() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let key = [0xa409_3822, 0x299f_31d0];
        assert_eq!(philox::<10>([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox::<10>([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(philox::<10>(pi, key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
        assert_eq!(philox::<7>([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
    }

    const LEN: usize = 1 << 16;

    /// ±1 for each element: kept or not at p = 1/2.
    fn signs(key: [u32; 4]) -> Vec<f64> {
        let words = (0..LEN as u32 / 4).flat_map(|four| words(four, key));
        words.map(|word| if word >= 1 << 31 { 1.0 } else { -1.0 }).collect()
    }

    /// |mean of the products| in standard deviations of independent fair signs.
    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        sum.abs() / (a.len().min(b.len()) as f64).sqrt()
    }

    #[test]
    fn kept_share_is_one_minus_p() {
        for p in [0.01, 0.1, 0.5, 0.9] {
            let threshold = (p * f64::from(u32::MAX)).round() as u32;
            for stream in 0..8 {
                let kept = (0..LEN as u32 / 4)
                    .flat_map(|four| words(four, [42, 0, stream, 0]))
                    .filter(|word| *word >= threshold)
                    .count();
                let expected = (1.0 - p) * LEN as f64;
                let deviation = (LEN as f64 * p * (1.0 - p)).sqrt();
                let off = (kept as f64 - expected).abs() / deviation;
                assert!(off < 4.5, "{kept} of {LEN} kept at p = {p}: {off} deviations");
            }
        }
    }

    #[test]
    fn neighbouring_keys_and_elements_are_independent() {
        let base = signs([42, 0, 3, 9]);
        for other in [[43, 0, 3, 9], [42, 1, 3, 9], [42, 0, 4, 9], [42, 0, 3, 10], [42, 0, 9, 3]] {
            let off = correlation(&base, &signs(other));
            assert!(off < 4.5, "key {other:?}: {off} deviations");
        }
        for lag in [1, 2, 3, 4, 5, 64, 576, 1024] {
            let off = correlation(&base[lag..], &base);
            assert!(off < 4.5, "elements {lag} apart: {off} deviations");
        }
    }
}
