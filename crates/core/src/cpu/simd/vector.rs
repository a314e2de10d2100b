//! What an instruction set does with vectors of f32, and what a kernel is.

#[cfg(doc)]
use bft_formats::weights::Codes;
use bft_formats::weights::{Field, UNIT};

/// A vector of f32 and what the kernels do with it. A value of an implementing type is the proof
/// that the processor has the instructions: only [`dispatch`] makes one.
pub(in crate::cpu) trait Simd: Copy {
    /// f32 in a vector.
    const LANES: usize;
    /// Rows of the product tile that fits the registers.
    const ROWS: usize;
    /// Vectors across the product tile.
    const VECTORS: usize;
    /// A vector.
    type V: Copy;

    /// Runs a kernel that is compiled once for this instruction set, whoever calls it.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` readable f32 at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` writable f32 at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// The first `n <= LANES`, then zeros.
    /// # Safety
    /// `n` readable f32 at `p`.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `n <= LANES` writable f32 at `p`.
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a where a > b, else b: of a NaN in b comes NaN, of one in a comes b.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a where a < b, else b.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// v · 2ⁿ for whole n in −252..=254.
    fn scale(self, v: Self::V, n: Self::V) -> Self::V;
    /// a · b + c, rounded once where the instruction set can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sum over the lanes, in a fixed order.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane; no lane is NaN.
    fn largest(self, v: Self::V) -> f32;

    /// Asks for the cache line at `p`, which need not be readable, where an instruction set can.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// Turns LANES rows of LANES, `from_stride` apart, into as many columns.
    /// # Safety
    /// Such rows readable at `from` and writable, `to_stride` apart, at `to`; they do not overlap.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for j in 0..Self::LANES {
            for i in 0..Self::LANES {
                // SAFETY: i < LANES and j < LANES, and both hold LANES rows of LANES.
                unsafe { *to.add(j * to_stride + i) = from.add(i * from_stride + j).read_unaligned() };
            }
        }
    }
    /// Three bf16 whose sum is the lane, for the lanes of `low` in the lower half of each lane, for
    /// those of `high` in the upper: the lane rounded (a half away from zero), what that leaves out
    /// rounded, and the exact rest.
    #[inline(always)]
    fn bf16_parts(self, low: Self::V, high: Self::V) -> [Self::V; 3] {
        let (mut lanes, mut parts) = ([[0.0f32; 16]; 2], [[0.0f32; 16]; 3]);
        // SAFETY: LANES <= 16, the length of the arrays.
        unsafe {
            self.store(lanes[0].as_mut_ptr(), low);
            self.store(lanes[1].as_mut_ptr(), high);
        }
        let [low, high] = lanes;
        for (i, (low, high)) in low.into_iter().zip(high).enumerate() {
            for (part, (low, high)) in parts.iter_mut().zip(three_bf16(low).into_iter().zip(three_bf16(high))) {
                part[i] = f32::from_bits(low.to_bits() >> 16 | high.to_bits() & 0xffff_0000);
            }
        }
        // SAFETY: LANES <= 16, the length of the arrays.
        parts.map(|part| unsafe { self.load(part.as_ptr()) })
    }
    /// The number that an IEEE half's bits say.
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        half_to_f32(bits)
    }
    /// LANES IEEE halves.
    /// # Safety
    /// `2 · LANES` readable bytes at `p`.
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::V {
        // SAFETY: the bytes that the method requires, and no others, are read.
        unsafe { self.load_each(|i| half_to_f32(p.cast::<u16>().add(i).read_unaligned())) }
    }
    /// LANES upper halves of f32.
    /// # Safety
    /// `2 · LANES` readable bytes at `p`.
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::V {
        // SAFETY: the bytes that the method requires, and no others, are read.
        unsafe { self.load_each(|i| f32::from_bits(u32::from(p.cast::<u16>().add(i).read_unaligned()) << 16)) }
    }
    /// LANES i8.
    /// # Safety
    /// `LANES` readable bytes at `p`.
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::V {
        // SAFETY: the bytes that the method requires, and no others, are read.
        unsafe { self.load_each(|i| f32::from(*p.add(i) as i8)) }
    }
    /// d · q + m for the low and for the high four bits q of LANES bytes, each operation rounded.
    /// # Safety
    /// `LANES` readable bytes at `p`.
    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8, d: Self::V, m: Self::V) -> (Self::V, Self::V) {
        // SAFETY: the bytes that the method requires, and no others, are read.
        let (low, high) =
            unsafe { (self.load_each(|i| f32::from(*p.add(i) & 15)), self.load_each(|i| f32::from(*p.add(i) >> 4))) };
        (self.add(self.mul(d, low), m), self.add(self.mul(d, high), m))
    }
    /// The bytes that [`Codes::Fives`] stands for.
    #[inline(always)]
    fn five_bits(self, nibbles: &[u8; UNIT / 2], fifth: &[u8; UNIT / 8], less: u8) -> [u8; UNIT] {
        let (mut out, fifth) = ([0; UNIT], u32::from_le_bytes(*fifth));
        for (i, out) in out.iter_mut().enumerate() {
            let nibble = nibbles[i % 16] >> (i / 16 * 4) & 15;
            *out = (nibble | ((fifth >> i & 1) as u8) << 4).wrapping_sub(less);
        }
        out
    }
    /// The bytes that [`Codes::Fields`] stands for.
    #[inline(always)]
    fn fields(self, low: Field<'_>, high: Option<(Field<'_>, u32)>, less: u8) -> [u8; UNIT] {
        let mut out = [0; UNIT];
        for (out, byte) in out.iter_mut().zip(low.bytes) {
            *out = byte >> low.shift & low.mask;
        }
        if let Some((high, up)) = high {
            for (out, byte) in out.iter_mut().zip(high.bytes) {
                *out |= (byte >> high.shift & high.mask) << up;
            }
        }
        for out in &mut out {
            *out = out.wrapping_sub(less);
        }
        out
    }
    /// The values that the low and the high four bits of LANES bytes number.
    /// # Safety
    /// `LANES` readable bytes at `p`.
    #[inline(always)]
    unsafe fn load_table(self, p: *const u8, values: &[i8; 16]) -> (Self::V, Self::V) {
        // SAFETY: `LANES` bytes are readable at `p`; the sixteen values are read past none.
        unsafe {
            (
                self.load_each(|i| f32::from(values[usize::from(*p.add(i) & 15)])),
                self.load_each(|i| f32::from(values[usize::from(*p.add(i) >> 4)])),
            )
        }
    }
    /// A vector of `f(0), f(1), …`
    #[inline(always)]
    fn load_each(self, f: impl Fn(usize) -> f32) -> Self::V {
        let mut lanes = [0.0; 16];
        for (i, x) in lanes.iter_mut().enumerate().take(Self::LANES) {
            *x = f(i);
        }
        // SAFETY: LANES <= 16, the length of the arrays.
        unsafe { self.load(lanes.as_ptr()) }
    }
}

/// Methods of [`Simd`] that make a vector of vectors by one expression.
macro_rules! of_vectors {
    ($($name:ident($($x:ident),+) = $made:expr;)+) => {$(
        #[inline(always)]
        #[allow(unused_unsafe)]
        fn $name(self, $($x: Self::V),+) -> Self::V {
            // SAFETY: a value of this type exists only where the processor has the instructions;
            // no memory is touched.
            unsafe { $made }
        }
    )+};
}
pub(super) use of_vectors;

/// Methods of [`Simd`] that make a vector of what lies at a pointer by one expression.
macro_rules! of_memory {
    ($($name:ident($($x:ident: $t:ty),+) = $made:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name(self, $($x: $t),+) -> Self::V {
            // SAFETY: a value of this type exists only where the processor has the instructions;
            // no more is read at the pointer than the method requires to be readable.
            unsafe { $made }
        }
    )+};
}
pub(super) use of_memory;

/// Halves move into place and are scaled by 2¹¹², which is exact for subnormal ones too; infinities
/// and NaN keep theirs.
#[inline(always)]
pub(in crate::cpu) fn half_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// Three numbers of which each needs the upper half of its bits only, and whose sum is x.
#[inline(always)]
pub(in crate::cpu) fn three_bf16(x: f32) -> [f32; 3] {
    let rounded = |x: f32| f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000);
    let first = rounded(x);
    let second = rounded(x - first);
    [first, second, x - first - second]
}

/// A computation that any instruction set can do.
pub(in crate::cpu) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, as all that it calls in inner loops.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// As [`Simd::call`], where the instructions are those that all code is compiled for.
#[inline(never)]
pub(super) fn run_here<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Output {
    kernel.run(s)
}
