//! AVX-512 and AVX2.

use std::arch::x86_64::*;

use bft_formats::weights::{Field, UNIT};

use super::vector::{Kernel, Simd, of_memory, of_vectors};

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// # Safety
/// [`has_avx2`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// # Safety
/// [`has_avx512`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// The low `n` of 16 lanes.
#[inline(always)]
fn first16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// The number that an IEEE half's bits say.
///
/// In assembly, because the compiler would put the bits into a register that holds a sum, whose
/// other lanes the instruction then waits for: a product of one row took twice its time.
/// # Safety
/// The processor has AVX2 and F16C.
#[inline(always)]
unsafe fn half(bits: u16) -> f32 {
    let number: __m128;
    // SAFETY: two instructions that the processor has, on registers alone.
    unsafe {
        std::arch::asm!(
            "vmovd {number}, {bits:e}",
            "vcvtph2ps {number}, {number}",
            bits = in(reg) u32::from(bits),
            number = out(xmm_reg) number,
            options(pure, nomem, nostack, preserves_flags),
        );
        _mm_cvtss_f32(number)
    }
}

/// Five bits an element, less a number, as [`Simd::five_bits`] has them.
/// # Safety
/// [`has_avx2`].
#[inline(always)]
unsafe fn five_bits(nibbles: &[u8; UNIT / 2], fifth: &[u8; UNIT / 8], less: u8) -> [u8; UNIT] {
    // SAFETY: the processor has AVX2, as this function requires; the bytes that are read and written
    // are the arrays'.
    unsafe {
        // Each byte of the fifth bits eight times; then of each the bit that is its element's.
        let all = _mm256_set1_epi32(i32::from_le_bytes(*fifth));
        let byte = |number: i64| number * 0x0101_0101_0101_0101;
        let index = _mm256_setr_epi64x(byte(0), byte(1), byte(2), byte(3));
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(all, index), own), own);
        let low = _mm_loadu_si128(nibbles.as_ptr().cast());
        let nibbles = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(low, 4), low), _mm256_set1_epi8(15));
        let five = _mm256_or_si256(nibbles, _mm256_and_si256(set, _mm256_set1_epi8(16)));
        let mut out = [0; UNIT];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_sub_epi8(five, _mm256_set1_epi8(less as i8)));
        out
    }
}

/// Bits of 32 bytes.
/// # Safety
/// [`has_avx2`].
#[inline(always)]
unsafe fn field(field: Field<'_>) -> __m256i {
    // SAFETY: the processor has AVX2, as this function requires; the bytes are the array's.
    unsafe {
        let bytes = _mm256_loadu_si256(field.bytes.as_ptr().cast());
        // What this moves from one byte to the next, the mask takes away.
        let moved = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(field.shift as i32));
        _mm256_and_si256(moved, _mm256_set1_epi8(field.mask as i8))
    }
}

/// As [`Simd::fields`].
/// # Safety
/// [`has_avx2`].
#[inline(always)]
unsafe fn fields(low: Field<'_>, high: Option<(Field<'_>, u32)>, less: u8) -> [u8; UNIT] {
    // SAFETY: the processor has AVX2, as this function requires; the bytes that are read and written
    // are the arrays'.
    unsafe {
        let mut codes = field(low);
        if let Some((high, up)) = high {
            codes = _mm256_or_si256(codes, _mm256_sll_epi16(field(high), _mm_cvtsi32_si128(up as i32)));
        }
        let mut out = [0; UNIT];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_sub_epi8(codes, _mm256_set1_epi8(less as i8)));
        out
    }
}

/// Rounded to bf16, a half away from zero.
/// # Safety
/// [`has_avx512`].
#[inline(always)]
unsafe fn to_bf16(x: __m512) -> __m512 {
    // SAFETY: the processor has AVX-512, as this function requires; no memory is touched.
    unsafe {
        let bits = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
        _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(UPPER)))
    }
}

/// low >> 16 | high & UPPER
/// # Safety
/// [`has_avx512`].
#[inline(always)]
unsafe fn upper_halves([low, high]: [__m512; 2]) -> __m512 {
    // SAFETY: the processor has AVX-512, as this function requires; no memory is touched.
    unsafe {
        let low = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
        let (high, upper) = (_mm512_castps_si512(high), _mm512_set1_epi32(UPPER));
        _mm512_castsi512_ps(_mm512_ternarylogic_epi32(low, high, upper, 0xf8))
    }
}

/// The half of a lane that is a bf16.
const UPPER: i32 = 0xffff_0000u32 as i32;

// SAFETY (of every block below): a value of this type exists only where the processor has the
// instructions; a block reads and writes no more bytes at a pointer than its method requires to be
// there.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    const LANES: usize = 16;
    const ROWS: usize = 8;
    const VECTORS: usize = 3;
    type V = __m512;

    of_vectors! {
        add(a, b) = _mm512_add_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        scale(v, n) = _mm512_scalef_ps(v, n);
        mul_add(a, b, c) = _mm512_fmadd_ps(a, b, c);
    }
    of_memory! {
        load(p: *const f32) = _mm512_loadu_ps(p);
        load_first(p: *const f32, n: usize) = _mm512_maskz_loadu_ps(first16(n), p);
        load_f16(p: *const u8) = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
        load_bf16(p: *const u8) = {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16))
        };
        load_i8(p: *const u8) = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())));
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_avx512(kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, first16(n), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let zero = _mm512_setzero_ps();
            let (mut rows, mut pairs) = ([zero; 16], [_mm512_castps_pd(zero); 16]);
            let mut fours = pairs;
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * from_stride));
            }
            // Within 128 bits: two rows, then four.
            for i in 0..8 {
                pairs[2 * i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]));
                pairs[2 * i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
            }
            for i in 0..4 {
                fours[4 * i] = _mm512_unpacklo_pd(pairs[4 * i], pairs[4 * i + 2]);
                fours[4 * i + 1] = _mm512_unpackhi_pd(pairs[4 * i], pairs[4 * i + 2]);
                fours[4 * i + 2] = _mm512_unpacklo_pd(pairs[4 * i + 1], pairs[4 * i + 3]);
                fours[4 * i + 3] = _mm512_unpackhi_pd(pairs[4 * i + 1], pairs[4 * i + 3]);
            }
            // Then the four quarters of four vectors.
            for j in 0..4 {
                let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
                let (ab, cd) = (_mm512_shuffle_f64x2(a, b, 0x44), _mm512_shuffle_f64x2(c, d, 0x44));
                _mm512_storeu_pd(to.add(j * to_stride).cast(), _mm512_shuffle_f64x2(ab, cd, 0x88));
                _mm512_storeu_pd(to.add((4 + j) * to_stride).cast(), _mm512_shuffle_f64x2(ab, cd, 0xdd));
                let (ab, cd) = (_mm512_shuffle_f64x2(a, b, 0xee), _mm512_shuffle_f64x2(c, d, 0xee));
                _mm512_storeu_pd(to.add((8 + j) * to_stride).cast(), _mm512_shuffle_f64x2(ab, cd, 0x88));
                _mm512_storeu_pd(to.add((12 + j) * to_stride).cast(), _mm512_shuffle_f64x2(ab, cd, 0xdd));
            }
        }
    }
    #[inline(always)]
    fn bf16_parts(self, low: __m512, high: __m512) -> [__m512; 3] {
        unsafe {
            let first = [to_bf16(low), to_bf16(high)];
            let rest = [_mm512_sub_ps(low, first[0]), _mm512_sub_ps(high, first[1])];
            let second = [to_bf16(rest[0]), to_bf16(rest[1])];
            let third = [_mm512_sub_ps(rest[0], second[0]), _mm512_sub_ps(rest[1], second[1])];
            [upper_halves(first), upper_halves(second), upper_halves(third)]
        }
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        unsafe { half(bits) }
    }
    #[inline(always)]
    fn five_bits(self, nibbles: &[u8; UNIT / 2], fifth: &[u8; UNIT / 8], less: u8) -> [u8; UNIT] {
        unsafe { five_bits(nibbles, fifth, less) }
    }
    #[inline(always)]
    fn fields(self, low: Field<'_>, high: Option<(Field<'_>, u32)>, less: u8) -> [u8; UNIT] {
        unsafe { fields(low, high, less) }
    }
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8, values: &[i8; 16]) -> (__m512, __m512) {
        unsafe {
            let (bytes, values) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(values.as_ptr().cast()));
            let (low, high) = (bytes, _mm_srli_epi16(bytes, 4));
            let numbered = |codes| {
                let bytes = _mm_shuffle_epi8(values, _mm_and_si128(codes, _mm_set1_epi8(15)));
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
            };
            (numbered(low), numbered(high))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, d: __m512, m: __m512) -> (__m512, __m512) {
        unsafe {
            // All sixteen values a nibble can have; the permutation looks at four bits of each
            // index only.
            let q = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
            let values = _mm512_add_ps(_mm512_mul_ps(d, q), m);
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm512_srli_epi32(bytes, 4);
            (_mm512_permutexvar_ps(bytes, values), _mm512_permutexvar_ps(high, values))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// The low `n` of 8 lanes.
#[inline(always)]
unsafe fn first8(n: usize) -> __m256i {
    static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(n <= 8);
    // SAFETY: 8 − n + 8 <= 16, the length of the table.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast()) }
}

// SAFETY (of every block below): a value of this type exists only where the processor has the
// instructions; a block reads and writes no more bytes at a pointer than its method requires to be
// there.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    const LANES: usize = 8;
    // Twelve sums, two vectors of B and one of A, of sixteen registers: where all of them are needed
    // (4 × 3), the compiler keeps a sum in memory, and its loop's speed depends on its address.
    const ROWS: usize = 6;
    const VECTORS: usize = 2;
    type V = __m256;

    of_vectors! {
        add(a, b) = _mm256_add_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
    }
    of_memory! {
        load(p: *const f32) = _mm256_loadu_ps(p);
        load_first(p: *const f32, n: usize) = _mm256_maskload_ps(p, first8(n));
        load_f16(p: *const u8) = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
        load_bf16(p: *const u8) = {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16))
        };
        load_i8(p: *const u8) = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())));
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_avx2(kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m256, n: usize) {
        unsafe { _mm256_maskstore_ps(p, first8(n), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn scale(self, v: __m256, n: __m256) -> __m256 {
        unsafe {
            // In two steps, since one would leave the exponent's range.
            let n = _mm256_cvtps_epi32(n);
            let (half, bias) = (_mm256_srai_epi32(n, 1), _mm256_set1_epi32(127));
            let first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
            let second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
            _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let zero = _mm256_setzero_ps();
            let (mut rows, mut pairs, mut fours) = ([zero; 8], [zero; 8], [zero; 8]);
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(i * from_stride));
            }
            // Within 128 bits: two rows, then four.
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            for i in 0..2 {
                fours[4 * i] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0x44);
                fours[4 * i + 1] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0xee);
                fours[4 * i + 2] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0x44);
                fours[4 * i + 3] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0xee);
            }
            // Then the two halves of two vectors.
            for j in 0..4 {
                let low = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
                _mm256_storeu_ps(to.add(j * to_stride), low);
                let high = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
                _mm256_storeu_ps(to.add((4 + j) * to_stride), high);
            }
        }
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        unsafe { half(bits) }
    }
    #[inline(always)]
    fn five_bits(self, nibbles: &[u8; UNIT / 2], fifth: &[u8; UNIT / 8], less: u8) -> [u8; UNIT] {
        unsafe { five_bits(nibbles, fifth, less) }
    }
    #[inline(always)]
    fn fields(self, low: Field<'_>, high: Option<(Field<'_>, u32)>, less: u8) -> [u8; UNIT] {
        unsafe { fields(low, high, less) }
    }
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8, values: &[i8; 16]) -> (__m256, __m256) {
        unsafe {
            let (bytes, values) = (_mm_loadl_epi64(p.cast()), _mm_loadu_si128(values.as_ptr().cast()));
            let (low, high) = (bytes, _mm_srli_epi16(bytes, 4));
            let numbered = |codes| {
                let bytes = _mm_shuffle_epi8(values, _mm_and_si128(codes, _mm_set1_epi8(15)));
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
            };
            (numbered(low), numbered(high))
        }
    }
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, d: __m256, m: __m256) -> (__m256, __m256) {
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let low = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
            let high = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
            (_mm256_add_ps(_mm256_mul_ps(d, low), m), _mm256_add_ps(_mm256_mul_ps(d, high), m))
        }
    }
}
