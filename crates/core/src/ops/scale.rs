//! A multiple, in place: x ← s·x, whose gradient is the same multiple.

use rayon::prelude::*;

use super::case::{Case, Fill};
use super::{CPU_CHUNK, Op, groups};
use crate::device::{Call, Recording, View, kernels, params};
use crate::real::Real;

params! {
    struct Params {
        len: u32,
        factor: f32,
    }
}

kernels! { KERNELS of Params:
    SCALE = "scale"::scale(x: ReadWrite) => scale_cpu;
}

/// The registry's entry.
pub static OP: Op = Op { name: "scale", kernels: KERNELS, variants: &[&[]], cases };

/// Multiplies every element of x by `factor`; nothing is recorded for 1.
pub fn scale(rec: &mut Recording, x: &View, factor: f32) {
    if factor != 1.0 {
        let params = Params { len: x.len() as u32, factor };
        rec.dispatch(&SCALE, &params, [x], groups(x.len()));
    }
}

fn scale_cpu<T: Real>(call: Call<'_, T>) {
    let factor = T::from_f32(call.params::<Params>().factor);
    let [x] = call.args();
    x.write().par_chunks_mut(CPU_CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

fn cases() -> Vec<Case> {
    let case = |len: usize| {
        Case::new(format!("{len} elements"), |rec, t| scale(rec, t.view("x"), 0.7))
            .input("x", &[len], Fill::Random(1.0))
            .updates("x")
            .upstream("x", "dx", &[len])
            .in_place_gradient("x", "dx")
            .backward(|rec, t| scale(rec, t.view("dx"), 0.7))
    };
    [1, 65, 70_001].map(case).into()
}
