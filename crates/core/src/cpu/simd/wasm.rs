//! WebAssembly's 128-bit SIMD.

use std::arch::wasm32::*;

use super::vector::{Simd, of_memory, of_vectors};

#[derive(Clone, Copy)]
pub(super) struct Simd128(());

impl Simd128 {
    pub(super) fn new() -> Self {
        Simd128(())
    }
}

// SAFETY (of every block below): this file is compiled only with simd128; a block reads and writes
// no more bytes at a pointer than its method requires to be there.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Simd128 {
    const LANES: usize = 4;
    const ROWS: usize = 4;
    const VECTORS: usize = 2;
    type V = v128;

    of_vectors! {
        add(a, b) = f32x4_add(a, b);
        mul(a, b) = f32x4_mul(a, b);
        sub(a, b) = f32x4_sub(a, b);
        max(a, b) = f32x4_pmax(b, a);
        min(a, b) = f32x4_pmin(b, a);
        div(a, b) = f32x4_div(a, b);
    }
    of_memory! {
        load(p: *const f32) = v128_load(p.cast());
        load_bf16(p: *const u8) = u32x4_shl(u32x4_load_extend_u16x4(p.cast()), 16);
        load_i8(p: *const u8) = {
            let wide = i16x8_extend_low_i8x16(v128_load32_zero(p.cast()));
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(wide))
        };
    }

    #[inline(always)]
    fn call<K: super::vector::Kernel>(self, kernel: K) -> K::Output {
        super::vector::run_here(self, kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        f32x4_splat(x)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        unsafe { v128_store(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0f32; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            v128_load(lanes.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0f32; 4];
        unsafe {
            v128_store(lanes.as_mut_ptr().cast(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    fn scale(self, v: Self::V, n: Self::V) -> Self::V {
        // In two steps, since one would leave the exponent's range.
        let n = i32x4_trunc_sat_f32x4(n);
        let (half, bias) = (i32x4_shr(n, 1), i32x4_splat(127));
        let first = i32x4_shl(i32x4_add(half, bias), 23);
        let second = i32x4_shl(i32x4_add(i32x4_sub(n, half), bias), 23);
        f32x4_mul(f32x4_mul(v, first), second)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // The fused one is in relaxed SIMD, whose result may differ from browser to browser.
        f32x4_add(f32x4_mul(a, b), c)
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        (f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<2>(v))
            + (f32x4_extract_lane::<1>(v) + f32x4_extract_lane::<3>(v))
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let low = f32x4_extract_lane::<0>(v).max(f32x4_extract_lane::<1>(v));
        low.max(f32x4_extract_lane::<2>(v)).max(f32x4_extract_lane::<3>(v))
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, d: Self::V, m: Self::V) -> (Self::V, Self::V) {
        unsafe {
            let bytes = u32x4_extend_low_u16x8(u16x8_extend_low_u8x16(v128_load32_zero(p.cast())));
            let low = f32x4_convert_u32x4(v128_and(bytes, u32x4_splat(15)));
            let high = f32x4_convert_u32x4(u32x4_shr(bytes, 4));
            (self.add(self.mul(d, low), m), self.add(self.mul(d, high), m))
        }
    }
}
