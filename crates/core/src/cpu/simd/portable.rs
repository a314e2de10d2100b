//! Four lanes in an array: any processor, and what the compiler makes of it.

use super::vector::{Simd, of_memory, of_vectors};

#[derive(Clone, Copy)]
pub(super) struct Portable(());

impl Portable {
    pub(super) fn new() -> Self {
        Portable(())
    }
}

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    const LANES: usize = 4;
    const ROWS: usize = 4;
    const VECTORS: usize = 2;
    type V = [f32; 4];

    of_vectors! {
        add(a, b) = zip(a, b, |a, b| a + b);
        mul(a, b) = zip(a, b, |a, b| a * b);
        sub(a, b) = zip(a, b, |a, b| a - b);
        max(a, b) = zip(a, b, |a, b| if a > b { a } else { b });
        min(a, b) = zip(a, b, |a, b| if a < b { a } else { b });
        div(a, b) = zip(a, b, |a, b| a / b);
    }
    of_memory! {
        load(p: *const f32) = p.cast::<[f32; 4]>().read_unaligned();
    }

    #[inline(always)]
    fn call<K: super::vector::Kernel>(self, kernel: K) -> K::Output {
        super::vector::run_here(self, kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: LANES = 4 f32 are there.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: i < n, and n f32 are there.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: i < n, and n f32 are there.
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    fn scale(self, v: Self::V, n: Self::V) -> Self::V {
        // In two steps, since one would leave the exponent's range.
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        zip(v, n, |v, n| {
            let n = n as i32;
            v * power(n >> 1) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v[0].max(v[1]).max(v[2].max(v[3]))
    }
}
