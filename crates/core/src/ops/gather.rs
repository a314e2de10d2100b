//! Picks the trained positions' hidden states, so that the head works on those alone.
//!
//! With rows `[R]`, all different, x `[N, cols]`:
//! - forward: y[i] = x[rows[i]], y `[R, cols]`
//! - backward: dx[rows[i]] = dy[i]; the other rows of dx are the caller's to clear.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        picked: u32,
        cols: u32,
    }
}

kernels! { KERNELS of Params:
    FORWARD = "gather"::forward(rows: Ids, x: Read, y: Write) => forward_cpu;
    BACKWARD = "gather"::backward(rows: Ids, dy: Read, dx: ReadWrite) => backward_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "gather", kernels: KERNELS, variants: &[&[]], cases };

/// y[i] = x[rows[i]].
pub fn forward(rec: &mut Recording, rows: &View, x: &View, y: &View, cols: usize) {
    let params = Params { picked: rows.len() as u32, cols: cols as u32 };
    rec.dispatch(&FORWARD, &params, [rows, x, y], groups(rows.len() * cols));
}

/// dx[rows[i]] = dy[i].
pub fn backward(rec: &mut Recording, rows: &View, dy: &View, dx: &View, cols: usize) {
    let params = Params { picked: rows.len() as u32, cols: cols as u32 };
    rec.dispatch(&BACKWARD, &params, [rows, dy, dx], groups(rows.len() * cols));
}

fn forward_cpu<T: Real>(call: Call<'_, T>) {
    let cols = call.params::<Params>().cols as usize;
    let [rows, x, y] = call.args();
    let x = x.read();
    y.write().par_chunks_exact_mut(cols).zip(rows.ids()).with_min_len(16).for_each(|(y, row)| {
        y.copy_from_slice(&x[*row as usize * cols..][..cols]);
    });
}

fn backward_cpu<T: Real>(call: Call<'_, T>) {
    let cols = call.params::<Params>().cols as usize;
    let [rows, dy, dx] = call.args();
    let dx = dx.write();
    for (row, dy) in rows.ids().iter().zip(dy.read().chunks_exact(cols)) {
        dx[*row as usize * cols..][..cols].copy_from_slice(dy);
    }
}

fn cases() -> Vec<Case> {
    let case = |tokens: usize, cols: usize, rows: Vec<u32>| {
        let picked = rows.len();
        Case::new(format!("{picked} of {tokens} rows of {cols}"), move |rec, t| {
            forward(rec, t.view("rows"), t.view("x"), t.view("y"), cols);
        })
        .input("rows", &[picked], Fill::ExactIds(rows))
        .input("x", &[tokens, cols], Fill::Random(1.0))
        .output("y", &[picked, cols])
        .upstream("y", "dy", &[picked, cols])
        .gradient("x", "dx", &[tokens, cols])
        .backward(move |rec, t| {
            rec.clear(t.view("dx"));
            backward(rec, t.view("rows"), t.view("dy"), t.view("dx"), cols);
        })
    };
    vec![
        case(1, 1, vec![0]),
        case(5, 3, vec![1, 4]),
        case(65, 64, (0..65).filter(|row| row % 3 != 1).collect()),
        case(130, 576, (0..130).rev().step_by(2).collect()),
    ]
}
