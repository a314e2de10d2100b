//! Q4_K: halves d and dmin, twelve bytes of six-bit scales and minima, 128 bytes of four-bit q;
//! d·scale·q − dmin·min, with a scale and a minimum for 32 elements.

use super::{
    Blocks, Codes, Field, Halves, Layout, Quantizer, Spec, UNIT, Unit, bytes, half_bits, put_nibbles, put_six_bits,
    set_half, six_bits,
};
use half::f16;

pub struct Q4_K;

/// Scale and negative minimum of a unit: what Q4_K and Q5_K begin with.
#[inline(always)]
pub(super) fn scale_and_min(block: &[u8], index: usize, half: impl Halves) -> (f32, f32) {
    let (d, dmin) = (half.of(half_bits(block, 0)), half.of(half_bits(block, 2)));
    let (scale, min) = six_bits(bytes(block, 4), index);
    (d * f32::from(scale), -(dmin * f32::from(min)))
}

/// d and dmin, then scale and minimum of each unit as bytes.
pub(super) fn regroup_scales(block: &[u8], scales: &mut [u8]) {
    scales[..4].copy_from_slice(&block[..4]);
    for index in 0..8 {
        let (scale, min) = six_bits(bytes(block, 4), index);
        scales[4 + 2 * index..][..2].copy_from_slice(&[scale, min]);
    }
}

impl Blocks for Q4_K {
    const SPEC: Spec = Spec {
        name: "Q4_K",
        ggml_id: 12,
        block_len: 256,
        block_bytes: 144,
        layout: Layout { shader: "q4_k", chunk: 32, group: 1, quants: 32, scales: 5 },
    };

    #[inline(always)]
    fn unit(block: &[u8], index: usize, half: impl Halves) -> Unit<'_> {
        let q = Field::four_bits(block, 16, index);
        let (scale, min) = scale_and_min(block, index, half);
        Unit { codes: Codes::Fields(q, None, 0), scale: [scale; 2], min: Some([min; 2]) }
    }

    fn regroup(block: &[u8], _: usize, quants: &mut [u8], scales: &mut [u8]) {
        regroup_scales(block, scales);
        for (index, out) in quants.chunks_exact_mut(16).enumerate() {
            let q = Field::four_bits(block, 16, index);
            put_nibbles(|l| q.of(l), out);
        }
    }

    const QUANTIZE: Option<Quantizer> = Some(quantize);

    fn tame(block: &mut [u8], number: &mut dyn FnMut() -> f32) {
        set_half(block, 0, number() / 945.0);
        set_half(block, 2, number() / 126.0);
    }
}

/// The largest code.
const MOST: f32 = 15.0;

/// As ggml's reference: the best line for each unit, scales and minima rounded to six bits of the
/// largest, and codes anew for what became of them.
fn quantize(values: &[f32], block: &mut [u8]) {
    let mut lines = [Line::default(); 8];
    for (line, unit) in lines.iter_mut().zip(values.chunks_exact(UNIT)) {
        *line = Line::through(unit);
    }
    // A minimum may be −0, which is not to be written.
    let most = |of: fn(&Line) -> f32| lines.iter().map(of).fold(0.0, |most, it| if it > most { it } else { most });
    let (most_scale, most_min) = (most(|line| line.scale), most(|line| line.min));
    let per_step = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
    let steps = |number: f32, most: f32| (per_step(most) * number).round_ties_even().min(63.0) as u8;

    block.fill(0);
    set_half(block, 0, most_scale / 63.0);
    set_half(block, 2, most_min / 63.0);
    let [d, dmin] = [0, 2].map(|at| f16::from_bits(half_bits(block, at)).to_f32());
    let mut codes = [0; 256];
    for (j, line) in lines.iter().enumerate() {
        let (scale, min) = (steps(line.scale, most_scale), steps(line.min, most_min));
        put_six_bits(&mut block[4..16], j, scale, min);
        let unit = j * UNIT..(j + 1) * UNIT;
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        // Without a scale every code means the same, and the line's own are as good as any.
        codes[unit.clone()].copy_from_slice(&line.codes);
        if scale != 0.0 {
            for (code, value) in codes[unit.clone()].iter_mut().zip(&values[unit]) {
                *code = ((value + min) / scale).round_ties_even().clamp(0.0, MOST) as u8;
            }
        }
    }
    for (pair, out) in codes.chunks_exact(2 * UNIT).zip(block[16..].chunks_exact_mut(UNIT)) {
        for (l, out) in out.iter_mut().enumerate() {
            *out = pair[l] | pair[l + UNIT] << 4;
        }
    }
}

/// Numbers of a unit as scale · code − min, with a minimum that is not negative.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    min: f32,
    codes: [u8; UNIT],
}

impl Default for Line {
    fn default() -> Self {
        Self { scale: 0.0, min: 0.0, codes: [0; UNIT] }
    }
}

impl Line {
    /// The line with the smallest weighted squared error among 22: that from the lowest number to
    /// the highest, and for 21 ranges around theirs the least squares over the codes that each
    /// gives, where a range begins at the minimum of the best line so far. A number weighs more the
    /// further it is from 0.
    fn through(values: &[f32]) -> Self {
        let spread = (values.iter().map(|x| x * x).sum::<f32>() / UNIT as f32).sqrt();
        let weights: [f32; UNIT] = std::array::from_fn(|i| spread + values[i].abs());
        let mut low = values.iter().fold(0.0, |low: f32, &x| low.min(x));
        let high = values.iter().fold(values[0], |high, &x| high.max(x));
        if high <= low {
            return Self { min: -low, ..Self::default() };
        }
        let (mut sum_w, mut sum_x) = (0.0, 0.0);
        for (w, x) in weights.iter().zip(values) {
            sum_w += w;
            sum_x += w * x;
        }
        let coded = |steps: f32, low: f32| -> [u8; UNIT] {
            let per_step = steps / (high - low);
            std::array::from_fn(|i| (per_step * (values[i] - low)).round_ties_even().clamp(0.0, MOST) as u8)
        };
        let error = |scale: f32, low: f32, codes: &[u8; UNIT]| {
            let mut sum = 0.0;
            for ((w, x), &code) in weights.iter().zip(values).zip(codes) {
                let difference = scale * f32::from(code) + low - x;
                sum += w * (difference * difference);
            }
            sum
        };
        let mut best = Self { scale: 1.0 / (MOST / (high - low)), min: -low, codes: coded(MOST, low) };
        let mut least = error(best.scale, low, &best.codes);
        for step in 0..=20 {
            let codes = coded(-1.0 + 0.1 * step as f32 + MOST, low);
            let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0, 0.0, 0.0);
            for ((w, x), &code) in weights.iter().zip(values).zip(&codes) {
                let l = f32::from(code);
                sum_l += w * l;
                sum_ll += w * l * l;
                sum_xl += w * l * x;
            }
            let determinant = sum_w * sum_ll - sum_l * sum_l;
            if determinant <= 0.0 {
                continue;
            }
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut begin = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            if begin > 0.0 {
                (begin, scale) = (0.0, sum_xl / sum_ll);
            }
            let found = error(scale, begin, &codes);
            if found < least {
                (least, low) = (found, begin);
                best = Self { scale, min: -begin, codes };
            }
        }
        best
    }
}
