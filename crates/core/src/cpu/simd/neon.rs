//! NEON, which every 64-bit Arm processor has.

use std::arch::aarch64::*;

use super::vector::{Simd, of_memory, of_vectors};

#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn new() -> Self {
        Neon(())
    }
}

/// Four bytes in the low half of a vector.
/// # Safety
/// Four readable bytes at `p`.
#[inline(always)]
unsafe fn load_bytes(p: *const u8) -> uint8x8_t {
    // SAFETY: four bytes are readable at `p`.
    unsafe { vcreate_u8(u64::from(p.cast::<u32>().read_unaligned())) }
}

// SAFETY (of every block below): NEON is part of the architecture; a block reads and writes no more
// bytes at a pointer than its method requires to be there.
#[allow(clippy::undocumented_unsafe_blocks, unused_unsafe)]
impl Simd for Neon {
    const LANES: usize = 4;
    const ROWS: usize = 8;
    const VECTORS: usize = 3;
    type V = float32x4_t;

    of_vectors! {
        add(a, b) = vaddq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        max(a, b) = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) = vbslq_f32(vcltq_f32(a, b), a, b);
        div(a, b) = vdivq_f32(a, b);
        mul_add(a, b, c) = vfmaq_f32(c, a, b);
    }
    of_memory! {
        load(p: *const f32) = vld1q_f32(p);
        load_bf16(p: *const u8) = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p.cast()), 16));
    }

    #[inline(always)]
    fn call<K: super::vector::Kernel>(self, kernel: K) -> K::Output {
        super::vector::run_here(self, kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0; 4];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    fn scale(self, v: Self::V, n: Self::V) -> Self::V {
        unsafe {
            // In two steps, since one would leave the exponent's range.
            let n = vcvtq_s32_f32(n);
            let (half, bias) = (vshrq_n_s32(n, 1), vdupq_n_s32(127));
            let first = vshlq_n_s32(vaddq_s32(half, bias), 23);
            let second = vshlq_n_s32(vaddq_s32(vsubq_s32(n, half), bias), 23);
            vmulq_f32(vmulq_f32(v, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second))
        }
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        unsafe { vmaxvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::V {
        unsafe {
            let wide = vmovl_s8(vreinterpret_s8_u8(load_bytes(p)));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, d: Self::V, m: Self::V) -> (Self::V, Self::V) {
        unsafe {
            let bytes = vmovl_u16(vget_low_u16(vmovl_u8(load_bytes(p))));
            let low = vcvtq_f32_u32(vandq_u32(bytes, vdupq_n_u32(15)));
            let high = vcvtq_f32_u32(vshrq_n_u32(bytes, 4));
            (self.add(self.mul(d, low), m), self.add(self.mul(d, high), m))
        }
    }
}
