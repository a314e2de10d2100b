//! The storage formats of weights: one file each, and one line in [`formats!`]'s list below.
//!
//! A file says everything about its format: its number and name in ggml, the length and bytes of a
//! block, what the bytes mean, how they are regrouped for a GPU, and random blocks for tests. The
//! list makes [`DType`]; loading, messages, shader variants, op tests and benchmarks follow from
//! it.
//!
//! Kernels never look into a block. They ask for [`UNIT`] elements at a time, which divides every
//! block, as small codes with a scale and, in some formats, a minimum.

#![allow(non_camel_case_types)] // The formats' own names.

mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod plain;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod tq1_0;
mod tq2_0;

pub use plain::Plain;

/// Elements that kernels decode at a time: every block of every format is whole units.
pub const UNIT: usize = 32;

/// The codes of a unit.
#[derive(Clone, Copy, Debug)]
pub enum Codes<'a> {
    /// A signed byte an element, in the block.
    Bytes(&'a [u8; UNIT]),
    /// A signed byte an element, unpacked.
    Unpacked([u8; UNIT]),
    /// Bits of 32 bytes, below those of 32 others moved up so far, less a number.
    Fields(Field<'a>, Option<(Field<'a>, u32)>, u8),
    /// Byte `j` holds element `j` in its low four bits and element `j + 16` in its high ones.
    Nibbles(&'a [u8; UNIT / 2]),
    /// As `Nibbles`, with a fifth bit a code in four bytes, the first element's lowest; less a number.
    Fives(&'a [u8; UNIT / 2], &'a [u8; UNIT / 8], u8),
    /// As `Nibbles`, where the four bits number one of sixteen values.
    Table(&'a [u8; UNIT / 2], &'static [i8; 16]),
}

/// Thirty-two neighbours of a row: element `i` is `scale[i / 16] · code(i) + min[i / 16]` in f32,
/// rounded after the product and after the sum.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The codes.
    pub codes: Codes<'a>,
    /// What codes are multiplied by, for each half of the unit.
    pub scale: [f32; 2],
    /// What is added, for each half of the unit, in formats that add something.
    pub min: Option<[f32; 2]>,
}

impl Unit<'_> {
    /// The code of an element.
    pub fn code(&self, i: usize) -> i8 {
        let nibble = |bytes: &[u8; UNIT / 2]| bytes[i % 16] >> (i / 16 * 4) & 15;
        match &self.codes {
            Codes::Bytes(bytes) => bytes[i] as i8,
            Codes::Unpacked(bytes) => bytes[i] as i8,
            Codes::Fields(low, high, less) => {
                let high = high.map_or(0, |(high, up)| high.of(i) << up);
                (low.of(i) | high) as i8 - *less as i8
            }
            Codes::Nibbles(bytes) => nibble(bytes) as i8,
            Codes::Fives(bytes, fifth, less) => {
                (nibble(bytes) | (fifth[i / 8] >> (i % 8) & 1) << 4) as i8 - *less as i8
            }
            Codes::Table(bytes, values) => values[usize::from(nibble(bytes))],
        }
    }

    fn write(&self, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let product = self.scale[i / 16] * f32::from(self.code(i));
            *out = self.min.map_or(product, |min| product + min[i / 16]);
        }
    }
}

/// What a format is called, how long its blocks are, and how a GPU holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name, as GGUF writes it.
    pub name: &'static str,
    /// ggml's number of it.
    pub ggml_id: u32,
    /// Elements of a block along a row.
    pub block_len: usize,
    /// Bytes of a block in a file.
    pub block_bytes: usize,
    /// How the bytes are regrouped for a GPU.
    pub layout: Layout,
}

/// How a GPU holds a format: values or quants in one buffer, whatever else decoding needs in
/// another, so that every load is aligned. Blocks are regrouped in groups that fill whole words of
/// both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The fragment `weight_NAME.wgsl` that decodes it.
    pub shader: &'static str,
    /// Elements that the fragment decodes at a time, its `CHUNK`.
    pub chunk: usize,
    /// Blocks of a group.
    pub group: usize,
    /// 4-byte words of values or quants in a group.
    pub quants: usize,
    /// 4-byte words of scales in a group; 0 in formats without.
    pub scales: usize,
}

impl Layout {
    /// Words of quants and of scales that hold so many blocks.
    pub const fn words(&self, blocks: usize) -> (usize, usize) {
        let groups = blocks.div_ceil(self.group);
        (groups * self.quants, groups * self.scales)
    }
}

/// Turns the bits of IEEE halves into numbers: a trait, not a closure, so that it is compiled for
/// the instruction set of the kernel that asks.
pub trait Halves: Copy {
    /// The number of these bits.
    fn of(self, bits: u16) -> f32;
}

/// Writes a block of numbers, which are finite, to the block's bytes.
pub type Quantizer = fn(&[f32], &mut [u8]);

/// A format whose elements come in blocks.
pub trait Blocks {
    /// Its names and sizes. `block_len` is whole units.
    const SPEC: Spec;

    /// Decodes the `index`th unit of a block, of which `half` turns the bits of IEEE halves into
    /// numbers.
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_>;

    /// Writes block number `index` of a group to the group's bytes, which are zero before.
    fn regroup(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]);

    /// Writes a block of these `block_len` numbers, as ggml's reference does; `None` in formats that
    /// nothing is turned into here.
    const QUANTIZE: Option<Quantizer> = None;

    /// Makes a block of random bytes one whose elements lie in about −1..1: its scales are set from
    /// `number`, which gives numbers in −1..1.
    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32);
}

/// A computation over the blocks of any format, for [`DType::visit`].
pub trait Visitor {
    /// What it gives.
    type Output;
    /// Computes it for a format of blocks.
    fn visit<F: Blocks>(self) -> Self::Output;
}

macro_rules! formats {
    (
        plain { $($(#[$plain_doc:meta])* $plain:ident = $plain_type:ty,)* }
        blocks { $($(#[$doc:meta])* $name:ident = $type:ty,)* }
    ) => {
        /// How the numbers of a tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $($(#[$plain_doc])* $plain,)*
            $($(#[$doc])* $name,)*
        }

        impl DType {
            /// Every format.
            pub const ALL: &'static [DType] = &[$(DType::$plain,)* $(DType::$name,)*];

            /// Names, sizes and layout.
            pub const fn spec(self) -> &'static Spec {
                match self {
                    $(Self::$plain => &<$plain_type as Plain>::SPEC,)*
                    $(Self::$name => &<$type as Blocks>::SPEC,)*
                }
            }

            /// Runs a computation over blocks of this format; `None` for the plain ones, which have
            /// none.
            #[inline(always)]
            pub fn visit<V: Visitor>(self, visitor: V) -> Option<V::Output> {
                match self {
                    $(Self::$plain => None,)*
                    $(Self::$name => Some(visitor.visit::<$type>()),)*
                }
            }

            fn plain(self) -> Option<(fn(&[u8]) -> f32, fn(f32) -> Vec<u8>)> {
                match self {
                    $(Self::$plain => Some((<$plain_type>::decode, <$plain_type>::encode)),)*
                    $(Self::$name => None,)*
                }
            }
        }

        $(const _: () = assert!(<$type as Blocks>::SPEC.block_len.is_multiple_of(UNIT));)*
    };
}

formats! {
    plain {
        /// IEEE single precision.
        F32 = plain::F32,
        /// IEEE half precision.
        F16 = plain::F16,
        /// The upper half of an `f32`.
        BF16 = plain::BF16,
    }
    blocks {
        /// 8-bit blocks with a scale.
        Q8_0 = q8_0::Q8_0,
        /// 4-bit blocks with a scale, centred on 8.
        Q4_0 = q4_0::Q4_0,
        /// 4-bit blocks with a scale and a minimum.
        Q4_1 = q4_1::Q4_1,
        /// 5-bit blocks with a scale, centred on 16.
        Q5_0 = q5_0::Q5_0,
        /// 5-bit blocks with a scale and a minimum.
        Q5_1 = q5_1::Q5_1,
        /// 2 bits, in blocks of 256 with scales of their own.
        Q2_K = q2_k::Q2_K,
        /// 3 bits, likewise.
        Q3_K = q3_k::Q3_K,
        /// 4 bits, likewise.
        Q4_K = q4_k::Q4_K,
        /// 5 bits, likewise.
        Q5_K = q5_k::Q5_K,
        /// 6 bits, likewise.
        Q6_K = q6_k::Q6_K,
        /// 4 bits that number values of a table.
        IQ4_NL = iq4_nl::IQ4_NL,
        /// The same in blocks of 256.
        IQ4_XS = iq4_xs::IQ4_XS,
        /// 4-bit floats with an exponent for 32.
        MXFP4 = mxfp4::MXFP4,
        /// Ternary, five digits in a byte.
        TQ1_0 = tq1_0::TQ1_0,
        /// Ternary, two bits each.
        TQ2_0 = tq2_0::TQ2_0,
    }
}

impl DType {
    /// The format that ggml gives this number.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.spec().ggml_id == id)
    }

    /// The formats without blocks: the ones that safetensors knows.
    pub fn plain_ones() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|dtype| dtype.block_len() == 1)
    }

    /// The formats that numbers can be turned into.
    pub fn quantizers() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|dtype| dtype.quantizer().is_some())
    }

    /// What turns a block of numbers into this format.
    fn quantizer(self) -> Option<Quantizer> {
        self.visit(AskQuantizer).flatten()
    }

    /// Elements in one block: 1 for the plain formats.
    pub const fn block_len(self) -> usize {
        self.spec().block_len
    }

    /// Elements that are decoded at a time: 1 for the plain formats, else [`UNIT`].
    pub const fn unit_len(self) -> usize {
        if self.block_len() == 1 { 1 } else { UNIT }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        self.spec().block_bytes
    }

    /// Bytes in a row of `cols` elements; `None` when `cols` is not whole blocks or overflows.
    pub const fn checked_row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes in a row of `cols` elements, which must be whole blocks (every opened tensor's are).
    pub const fn row_bytes(self, cols: usize) -> usize {
        debug_assert!(cols.is_multiple_of(self.block_len()));
        cols / self.block_len() * self.block_bytes()
    }

    /// The format's name, as GGUF writes it.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Words of quants and of scales that a GPU holds for `rows` rows of `cols` elements.
    pub const fn gpu_words(self, rows: usize, cols: usize) -> (usize, usize) {
        self.spec().layout.words(rows * cols / self.block_len())
    }

    /// Regroups whole blocks for a GPU, into zeros of as many words as [`Self::gpu_words`] says.
    pub fn regroup(self, data: &[u8], quants: &mut [u8], scales: &mut [u8]) {
        if self.unit_len() == 1 {
            quants[..data.len()].copy_from_slice(data);
        } else {
            self.visit(Regroup { data, quants, scales });
        }
    }

    /// Bytes of `elements` random elements, whole blocks, of about −1..1: for tests and benchmarks.
    /// `bits` gives random bits.
    pub fn random(self, elements: usize, bits: &mut dyn FnMut() -> u64) -> Vec<u8> {
        let spec = self.spec();
        let number = |bits: &mut dyn FnMut() -> u64| (bits() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if let Some((_, encode)) = self.plain() {
            return (0..elements).flat_map(|_| encode(number(bits))).collect();
        }
        let mut bytes: Vec<u8> =
            (0..elements / spec.block_len * spec.block_bytes).map(|_| (bits() >> 33) as u8).collect();
        self.visit(Tame { data: &mut bytes, number: &mut || number(bits) });
        bytes
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the `f32` values of `row` (whole blocks of `dtype`) to `out`.
///
/// # Panics
/// When `row.len()` is not `dtype.row_bytes(out.len())`.
pub fn dequantize_row(dtype: DType, row: &[u8], out: &mut [f32]) {
    assert_eq!(Some(row.len()), dtype.checked_row_bytes(out.len()), "a {dtype} row of {} elements", out.len());
    if let Some((decode, _)) = dtype.plain() {
        for (value, bytes) in out.iter_mut().zip(row.chunks_exact(dtype.block_bytes())) {
            *value = decode(bytes);
        }
    } else {
        dtype.visit(Decode { data: row, out });
    }
}

/// Writes `values` (whole blocks of `dtype`, all finite) as blocks of `dtype` to `row`; false where
/// the format is none of [`DType::quantizers`].
///
/// # Panics
/// When `row.len()` is not `dtype.row_bytes(values.len())`.
pub fn quantize_row(dtype: DType, values: &[f32], row: &mut [u8]) -> bool {
    assert_eq!(Some(row.len()), dtype.checked_row_bytes(values.len()), "a {dtype} row of {} elements", values.len());
    let Some(quantize) = dtype.quantizer() else { return false };
    let blocks = row.chunks_exact_mut(dtype.block_bytes());
    values.chunks_exact(dtype.block_len()).zip(blocks).for_each(|(values, block)| quantize(values, block));
    true
}

struct AskQuantizer;

impl Visitor for AskQuantizer {
    type Output = Option<Quantizer>;
    fn visit<F: Blocks>(self) -> Self::Output {
        F::QUANTIZE
    }
}

struct Decode<'a> {
    data: &'a [u8],
    out: &'a mut [f32],
}

impl Visitor for Decode<'_> {
    type Output = ();
    fn visit<F: Blocks>(self) {
        let blocks = self.data.chunks_exact(F::SPEC.block_bytes);
        for (block, out) in blocks.zip(self.out.chunks_exact_mut(F::SPEC.block_len)) {
            for (index, out) in out.chunks_exact_mut(UNIT).enumerate() {
                F::unit(block, index, Software).write(out);
            }
        }
    }
}

struct Regroup<'a> {
    data: &'a [u8],
    quants: &'a mut [u8],
    scales: &'a mut [u8],
}

impl Visitor for Regroup<'_> {
    type Output = ();
    fn visit<F: Blocks>(self) {
        let Spec { block_bytes, layout, .. } = F::SPEC;
        let quants = self.quants.chunks_exact_mut(4 * layout.quants);
        let scales = self.scales.chunks_exact_mut(4 * layout.scales);
        for ((group, quants), scales) in self.data.chunks(layout.group * block_bytes).zip(quants).zip(scales) {
            for (index, block) in group.chunks_exact(block_bytes).enumerate() {
                F::regroup(block, index, quants, scales);
            }
        }
    }
}

struct Tame<'a> {
    data: &'a mut [u8],
    number: &'a mut dyn FnMut() -> f32,
}

impl Visitor for Tame<'_> {
    type Output = ();
    fn visit<F: Blocks>(self) {
        self.data.chunks_exact_mut(F::SPEC.block_bytes).for_each(|block| F::tame(block, self.number));
    }
}

#[derive(Clone, Copy)]
struct Software;

impl Halves for Software {
    fn of(self, bits: u16) -> f32 {
        half::f16::from_bits(bits).to_f32()
    }
}

/// The bits of an IEEE half in a block.
#[inline(always)]
fn half_bits(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Some bytes of a block, by a length known when compiling.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].try_into().expect("N bytes")
}

/// Sets an IEEE half of a block.
fn set_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// Writes an IEEE half to a block, as [`set_half`], and gives 1 / `value`, or 0 for 0: what numbers
/// are multiplied by to become codes of this scale. Like ggml's, it is that of the scale before it
/// is rounded.
fn set_scale(block: &mut [u8], value: f32) -> f32 {
    set_half(block, 0, value);
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

/// The number that is furthest from 0, the first of several, with its sign; 0 of zeros.
fn furthest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most })
}

/// Copies block number `index` of a group apart: a header of `N` bytes to the scales, the rest to
/// the quants.
fn split_header<const N: usize>(block: &[u8], index: usize, quants: &mut [u8], scales: &mut [u8]) {
    let body = block.len() - N;
    scales[index * N..(index + 1) * N].copy_from_slice(&block[..N]);
    quants[index * body..(index + 1) * body].copy_from_slice(&block[N..]);
}

/// The low four bits of a unit's codes, 16 bytes: byte `j` holds element `j` low and element `j +
/// 16` high.
fn put_nibbles(code: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = code(j) & 15 | code(j + 16) << 4;
    }
}

/// Two bits of each of a unit's codes, 8 bytes: byte `i` holds elements `4 i` to `4 i + 3`, the
/// first lowest.
fn put_pairs(code: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = (0..4).fold(0, |byte, k| byte | (code(4 * i + k) & 3) << (2 * k));
    }
}

/// A bit of each of a unit's codes, 4 bytes, the first element lowest.
fn put_bits(code: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = (0..8).fold(0, |byte, k| byte | (code(8 * i + k) & 1) << k);
    }
}

/// The six-bit scale and minimum of unit `j` in the twelve bytes of Q4_K and Q5_K.
#[inline(always)]
fn six_bits(q: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        (q[j + 4] & 15 | q[j - 4] >> 6 << 4, q[j + 4] >> 4 | q[j] >> 6 << 4)
    }
}

/// Writes the six-bit scale and minimum of unit `j` to the twelve bytes, zero before, that
/// [`six_bits`] reads.
fn put_six_bits(q: &mut [u8], j: usize, scale: u8, min: u8) {
    if j < 4 {
        q[j] |= scale;
        q[j + 4] |= min;
    } else {
        q[j + 4] |= scale & 15 | min << 4;
        q[j - 4] |= scale >> 4 << 6;
        q[j] |= min >> 4 << 6;
    }
}

/// Some bits of each of 32 bytes: what a unit's codes are put together from.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The bytes, one an element.
    pub bytes: &'a [u8; UNIT],
    /// Where the bits begin.
    pub shift: u32,
    /// The bits, once they are moved down.
    pub mask: u8,
}

impl<'a> Field<'a> {
    /// Unit `index` of 256 elements of two bits from byte `at` on: 32 bytes hold four units, the
    /// first lowest.
    #[inline(always)]
    fn two_bits(block: &'a [u8], at: usize, index: usize) -> Self {
        Field { bytes: bytes(block, at + index / 4 * UNIT), shift: index as u32 % 4 * 2, mask: 3 }
    }

    /// Unit `index` of 256 elements of four bits from byte `at` on: 32 bytes hold two units, the
    /// first low.
    #[inline(always)]
    fn four_bits(block: &'a [u8], at: usize, index: usize) -> Self {
        Field { bytes: bytes(block, at + index / 2 * UNIT), shift: index as u32 % 2 * 4, mask: 15 }
    }

    /// Unit `index` of 256 elements of one bit from byte `at` on: 32 bytes hold eight units, the
    /// first lowest.
    #[inline(always)]
    fn bit(block: &'a [u8], at: usize, index: usize) -> Self {
        Field { bytes: bytes(block, at), shift: index as u32, mask: 1 }
    }

    /// That of element `l`.
    #[inline(always)]
    pub fn of(self, l: usize) -> u8 {
        self.bytes[l] >> self.shift & self.mask
    }
}
