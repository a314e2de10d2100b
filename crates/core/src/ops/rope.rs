//! Rotary position embedding (arXiv 2104.09864), in place, with the halves of a head rotated
//! against each other.
//!
//! For x `[N, heads·D]` whose heads rotate in their first R ≤ D numbers, position p and i < R/2,
//! with angle p·inv_freq[i]:
//! - forward: (x_i, x_{i+R/2}) ← (x_i cos − x_{i+R/2} sin, x_{i+R/2} cos + x_i sin)
//! - backward: the same with −sin, for a rotation's transpose is its inverse.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        tokens: u32,
        heads: u32,
        head_dim: u32,
        half: u32,
        direction: f32,
    }
}

kernels! { KERNELS of Params:
    ROTATE = "rope"::rotate(positions: Ids, cos_sin: Read, x: ReadWrite) => rotate_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "rope", kernels: KERNELS, variants: &[&[]], cases };

/// Cosines and sines `[positions, R]`, R/2 of each in a row, from inv_freq `[R/2]`, times `factor`.
///
/// The angle is rounded to f32 as the reference implementations do; its cosine is taken in f64,
/// because some drivers' own are wrong for large angles.
#[must_use]
pub fn table(inv_freq: &[f32], factor: f64, positions: usize) -> Vec<f32> {
    let row = |position: usize| {
        let angles = inv_freq.iter().map(move |frequency| f64::from(position as f32 * frequency));
        let cosines = angles.clone().map(move |angle| (angle.cos() * factor) as f32);
        cosines.chain(angles.map(move |angle| (angle.sin() * factor) as f32))
    };
    (0..positions).flat_map(row).collect()
}

/// What heads rotate by.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// `[N]` the row of the table for each token.
    pub rows: &'a View,
    /// `[rows, R]`, of [`table`].
    pub cos_sin: &'a View,
    /// R: the numbers of a head that rotate, its first.
    pub dim: usize,
    /// D
    pub head_dim: usize,
}

/// Rotates x `[N, heads·D]`.
pub fn forward(rec: &mut Recording, by: Rotation, x: &View) {
    record(rec, by, x, 1.0);
}

/// Rotates a gradient back.
pub fn backward(rec: &mut Recording, by: Rotation, dx: &View) {
    record(rec, by, dx, -1.0);
}

fn record(rec: &mut Recording, by: Rotation, x: &View, direction: f32) {
    let (tokens, half) = (by.rows.len(), by.dim / 2);
    let heads = x.len() / tokens / by.head_dim;
    let pairs = tokens * heads * half;
    let [tokens, heads, head_dim, half] = [tokens, heads, by.head_dim, half].map(|size| size as u32);
    let params = Params { tokens, heads, head_dim, half, direction };
    rec.dispatch(&ROTATE, &params, [by.rows, by.cos_sin, x], groups(pairs));
}

fn rotate_cpu<T: Real>(call: Call<'_, T>) {
    let params: Params = call.params();
    let [heads, head_dim, half] = [params.heads, params.head_dim, params.half].map(|size| size as usize);
    let direction = T::from_f32(params.direction);
    let [positions, cos_sin, x] = call.args();
    let (positions, cos_sin, x) = (positions.ids(), cos_sin.read(), x.write());
    let tokens = x.par_chunks_exact_mut(heads * head_dim).zip(positions).with_min_len(16);
    tokens.for_each(|(x, position)| {
        let row = &cos_sin[*position as usize * 2 * half..][..2 * half];
        let (cosines, sines) = row.split_at(half);
        for head in x.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let sine = *sine * direction;
                (*a, *b) = (*a * *cosine - *b * sine, *b * *cosine + *a * sine);
            }
        }
    });
}

fn cases() -> Vec<Case> {
    let sizes = [(1, 1, 2, 2), (3, 1, 4, 4), (5, 3, 12, 12), (63, 2, 64, 64), (130, 9, 64, 64), (7, 3, 16, 12)];
    let cases = sizes.into_iter().map(|(tokens, heads, head_dim, dim)| {
        let inv_freq: Vec<f32> = (0..dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / dim as f32)).collect();
        let shape = [tokens, heads * head_dim];
        Case::new(format!("{tokens} tokens, {heads} heads of {head_dim}, {dim} rotate"), move |rec, t| {
            let by = Rotation { rows: t.view("positions"), cos_sin: t.view("cos_sin"), dim, head_dim };
            forward(rec, by, t.view("x"));
        })
        .input("positions", &[tokens], Fill::Ids(500))
        .input("cos_sin", &[500, dim], Fill::Values(table(&inv_freq, 1.0, 500)))
        .input("x", &shape, Fill::Random(1.0))
        .updates("x")
        // In place, the upstream gradient becomes the input's.
        .upstream("x", "dx", &shape)
        .in_place_gradient("x", "dx")
        .backward(move |rec, t| {
            let by = Rotation { rows: t.view("positions"), cos_sin: t.view("cos_sin"), dim, head_dim };
            backward(rec, by, t.view("dx"));
        })
    });
    cases.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_holds_cosines_then_sines() {
        let table = table(&[1.0, 0.5], 1.0, 3);
        let expected = [2f64.cos(), 1f64.cos(), 2f64.sin(), 1f64.sin()].map(|value| value as f32);
        assert_eq!(table[8..], expected);
        assert_eq!(table[..4], [1.0, 1.0, 0.0, 0.0]);
    }
}
