//! Sums, maxima, exponentials and what is made of them, over whole rows.
//!
//! In f32 they run on vectors; the exponential is within 2 units in the last place of the true one.
//! A sum has one fixed order for one length and instruction set.

use bft_formats::Gate;

use super::simd::{Kernel, Simd, dispatch};
use crate::real::Real;

/// 2·√(2/π), of GELU by tanh.
pub(super) const TWICE_ROOT: f64 = 1.595_769_121_605_730_7;
/// The factor of its cube.
pub(super) const CUBIC: f64 = 0.044_715;

/// Σ aᵢ · bᵢ
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    assert_eq!(a.len(), b.len(), "dot lengths");
    match (T::f32s(a), T::f32s(b)) {
        (Some(a), Some(b)) => T::from_f32(dispatch(Dot { a, b })),
        _ => a.iter().zip(b).map(|(&a, &b)| a * b).sum(),
    }
}

/// The largest element, −∞ of none. NaN are passed over.
pub fn max<T: Real>(x: &[T]) -> T {
    match T::f32s(x) {
        Some(x) => T::from_f32(dispatch(Max { x })),
        None => x.iter().copied().fold(T::NEG_INFINITY, T::max),
    }
}

/// x becomes exp(x − max); the sum of that.
pub fn exp_sub_sum<T: Real>(x: &mut [T], max: T) -> T {
    if let Some(x) = T::f32s_mut(x) {
        return T::from_f32(dispatch(ExpSub { x, max: max.to_f32() }));
    }
    x.iter_mut()
        .map(|x| {
            *x = (*x - max).exp();
            *x
        })
        .sum()
}

/// Σ exp(x − max), leaving x as it is.
pub fn sum_exp_sub<T: Real>(x: &[T], max: T) -> T {
    match T::f32s(x) {
        Some(x) => T::from_f32(dispatch(SumExpSub { x, max: max.to_f32() })),
        None => x.iter().map(|&x| (x - max).exp()).sum(),
    }
}

/// y = f(gate) · up
pub fn gate_mul<T: Real>(kind: Gate, gate: &[T], up: &[T], y: &mut [T]) {
    assert_eq!((gate.len(), up.len()), (y.len(), y.len()), "gate_mul lengths");
    if let (Some(gate), Some(up), Some(y)) = (T::f32s(gate), T::f32s(up), T::f32s_mut(y)) {
        return dispatch(GateMul { kind, gate, up, y });
    }
    for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * steepness(kind, gate).0 * up;
    }
}

/// (s, s') of f(x) = x·s(x): σ(x), Φ(x) for GELU, or σ(2√(2/π)·(x + 0.044715·x³)) for GELU by tanh.
fn steepness<T: Real>(kind: Gate, x: T) -> (T, T) {
    match kind {
        Gate::Silu => {
            let s = logistic(x);
            (s, s * (T::ONE - s))
        }
        Gate::Gelu => normal(x),
        Gate::GeluTanh => {
            let (twice, cubic) = (T::from_f64(TWICE_ROOT), T::from_f64(CUBIC));
            let s = logistic(twice * (x + cubic * x * x * x));
            (s, s * (T::ONE - s) * twice * (T::ONE + T::from_f64(3.0) * cubic * x * x))
        }
    }
}

/// Of y = f(gate) · up: d_gate = dy · up · f', d_up = dy · f.
pub fn gate_mul_backward<T: Real>(kind: Gate, gate: &[T], up: &[T], dy: &[T], d_gate: &mut [T], d_up: &mut [T]) {
    let n = gate.len();
    assert!([up.len(), dy.len(), d_gate.len(), d_up.len()] == [n; 4], "gate_mul_backward lengths");
    if let (Some(gate), Some(up), Some(dy), Some(d_gate), Some(d_up)) =
        (T::f32s(gate), T::f32s(up), T::f32s(dy), T::f32s_mut(d_gate), T::f32s_mut(d_up))
    {
        return dispatch(GateMulBackward { kind, gate, up, dy, d_gate, d_up });
    }
    for i in 0..n {
        let (s, slope) = steepness(kind, gate[i]);
        d_gate[i] = dy[i] * up[i] * (s + gate[i] * slope);
        d_up[i] = dy[i] * gate[i] * s;
    }
}

fn logistic<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// The normal distribution function and its density.
pub(super) fn normal<T: Real>(x: T) -> (T, T) {
    let number = T::from_f64;
    let cdf = number(0.5) * (-x * number(std::f64::consts::FRAC_1_SQRT_2)).erfc();
    (cdf, number(ROOT_DENSITY) * (number(-0.5) * x * x).exp())
}

/// 1/√(2π)
const ROOT_DENSITY: f64 = 0.398_942_280_401_432_7;

/// The normal distribution function of −|x|. erfc(z) of z = |x|/√2 is exp of a polynomial in 1 / (1
/// + z/2), within a few units in the last place.
#[inline(always)]
pub(super) fn normal_tail<S: Simd>(s: S, magnitude: S::V) -> S::V {
    let z = s.mul(magnitude, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let one = s.splat(1.0);
    let t = s.div(one, s.mul_add(z, s.splat(0.5), one));
    let mut p = s.splat(0.170_872_77);
    for c in [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.mul_add(p, t, s.splat(c));
    }
    s.mul(s.mul(s.splat(0.5), t), exp(s, s.sub(p, s.mul(z, z))))
}

/// The normal distribution function: tail for x < 0, 1 − tail else.
#[inline(always)]
fn normal_cdf<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let tail = normal_tail(s, s.max(x, s.sub(zero, x)));
    // 0 below 0 and 1 above it; where x is so near to 0 that it lies between them, tail and 1 −
    // tail are the same.
    let above = s.min(one, s.max(zero, s.mul(x, s.splat(1e30))));
    s.mul_add(above, s.sub(one, s.add(tail, tail)), tail)
}

/// tanh x within a few units in the last place: a rational function of x, held where it reaches 1.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(7.905_311), s.max(s.splat(-7.905_311), x));
    let square = s.mul(x, x);
    let polynomial =
        |first: f32, rest: &[f32]| rest.iter().fold(s.splat(first), |sum, &c| s.mul_add(sum, square, s.splat(c)));
    let odd = [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619e-4, 4.893_524_6e-3];
    let p = s.mul(x, polynomial(-2.760_768_5e-16, &odd));
    s.div(p, polynomial(1.198_258_4e-6, &[1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3]))
}

/// x ← cap·tanh(x / cap)
pub(super) struct Cap<'a> {
    pub x: &'a mut [f32],
    pub cap: f32,
}

impl Kernel for Cap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (cap, inverse) = (s.splat(self.cap), s.splat(1.0 / self.cap));
        vectors!(S, self.x.len(), |at, n| {
            let value = s.mul(cap, tanh(s, s.mul(get(s, self.x, at, n), inverse)));
            put(s, self.x, at, n, value);
        });
    }
}

/// x ← cap·tanh(x / cap)
pub fn soft_cap<T: Real>(x: &mut [T], cap: f32) {
    if let Some(x) = T::f32s_mut(x) {
        return dispatch(Cap { x, cap });
    }
    let (cap, two) = (T::from_f32(cap), T::ONE + T::ONE);
    for x in x {
        *x = cap * (T::ONE - two / ((two * *x / cap).exp() + T::ONE));
    }
}

/// eˣ: 0 far below, ∞ far above, NaN of NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond these the result is 0 or ∞ anyway, and 2ⁿ stays in reach of `scale`.
    let x = s.min(s.splat(90.0), s.max(s.splat(-105.0), x));
    // Adding 1.5 · 2²³ rounds to a whole number.
    let round = s.splat(12_582_912.0);
    let n = s.sub(s.mul_add(x, s.splat(std::f32::consts::LOG2_E), round), round);
    // r = x − n · ln 2 in −0.35..0.35; the first part of ln 2 has so few bits that its product is
    // exact.
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(s.mul(r, r), p, r), s.splat(1.0));
    s.scale(p, n)
}

/// Runs `body(at, n)` for each vector of a slice of `len`; n < LANES in the last one alone.
macro_rules! vectors {
    ($s:ty, $len:expr, |$at:ident, $n:ident| $body:block) => {
        let len = $len;
        let mut $at = 0;
        while $at < len {
            let $n = (len - $at).min(<$s>::LANES);
            $body
            $at += <$s>::LANES;
        }
    };
}
pub(super) use vectors;

/// LANES of x from `at` on, of which `n` are there; the others are 0.
#[inline(always)]
pub(super) fn get<S: Simd>(s: S, x: &[f32], at: usize, n: usize) -> S::V {
    debug_assert!(at + n <= x.len());
    // SAFETY: n elements from `at` on are inside.
    unsafe { if n == S::LANES { s.load(x.as_ptr().add(at)) } else { s.load_first(x.as_ptr().add(at), n) } }
}

#[inline(always)]
pub(super) fn put<S: Simd>(s: S, x: &mut [f32], at: usize, n: usize, v: S::V) {
    debug_assert!(at + n <= x.len());
    // SAFETY: n elements from `at` on are inside.
    unsafe {
        if n == S::LANES {
            s.store(x.as_mut_ptr().add(at), v);
        } else {
            s.store_first(x.as_mut_ptr().add(at), v, n);
        }
    }
}

pub(super) struct Dot<'a> {
    pub a: &'a [f32],
    pub b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // Four sums, so that one addition need not wait for the last.
        let mut sums = [s.splat(0.0); 4];
        let whole = self.a.len() / (4 * S::LANES) * (4 * S::LANES);
        for at in (0..whole).step_by(4 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * S::LANES;
                *sum = s.mul_add(get(s, self.a, at, S::LANES), get(s, self.b, at, S::LANES), *sum);
            }
        }
        let (a, b) = (&self.a[whole..], &self.b[whole..]);
        vectors!(S, a.len(), |at, n| {
            sums[0] = s.mul_add(get(s, a, at, n), get(s, b, at, n), sums[0]);
        });
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}

pub(super) struct Max<'a> {
    pub x: &'a [f32],
}

impl Kernel for Max<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let x = self.x;
        if x.len() < S::LANES {
            return x.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        }
        let mut largest = s.splat(f32::NEG_INFINITY);
        // The last vector may overlap the one before. The second operand is what stays where the
        // first is NaN.
        let last = x.len() - S::LANES;
        for at in (0..last).step_by(S::LANES).chain([last]) {
            largest = s.max(get(s, x, at, S::LANES), largest);
        }
        s.largest(largest)
    }
}

pub(super) struct ExpSub<'a> {
    pub x: &'a mut [f32],
    pub max: f32,
}

impl Kernel for ExpSub<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (mut sum, max) = (s.splat(0.0), s.splat(self.max));
        let whole = self.x.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            let e = exp(s, s.sub(get(s, self.x, at, S::LANES), max));
            put(s, self.x, at, S::LANES, e);
            sum = s.add(sum, e);
        }
        let rest = &mut self.x[whole..];
        let e = exp(s, s.sub(get(s, rest, 0, rest.len()), max));
        put(s, rest, 0, rest.len(), e);
        s.sum(s.add(sum, get(s, rest, 0, rest.len())))
    }
}

struct SumExpSub<'a> {
    x: &'a [f32],
    max: f32,
}

impl Kernel for SumExpSub<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (mut sum, max) = (s.splat(0.0), s.splat(self.max));
        let whole = self.x.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            sum = s.add(sum, exp(s, s.sub(get(s, self.x, at, S::LANES), max)));
        }
        let rest = &self.x[whole..];
        let mut lanes = [0.0; 16];
        put(s, &mut lanes, 0, rest.len(), exp(s, s.sub(get(s, rest, 0, rest.len()), max)));
        s.sum(s.add(sum, get(s, &lanes, 0, rest.len())))
    }
}

#[inline(always)]
pub(super) fn vector_logistic<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

struct GateMul<'a> {
    kind: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for GateMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { kind, gate, up, y } = self;
        match kind {
            Gate::Silu => gated(s, gate, up, y, |x| vector_logistic(s, x)),
            Gate::Gelu => gated(s, gate, up, y, |x| normal_cdf(s, x)),
            Gate::GeluTanh => gated(s, gate, up, y, |x| vector_logistic(s, gelu_inner(s, x).0)),
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(s: S, gate: &[f32], up: &[f32], y: &mut [f32], f: impl Fn(S::V) -> S::V) {
    vectors!(S, y.len(), |at, n| {
        let gate = get(s, gate, at, n);
        let value = s.mul(s.mul(gate, f(gate)), get(s, up, at, n));
        put(s, y, at, n, value);
    });
}

/// 2·√(2/π)·(x + 0.044715·x³), and its slope.
#[inline(always)]
fn gelu_inner<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let (twice, square) = (s.splat(TWICE_ROOT as f32), s.mul(x, x));
    let inner = s.mul_add(s.splat(CUBIC as f32), s.mul(square, x), x);
    let slope = s.mul_add(s.splat(3.0 * CUBIC as f32), square, s.splat(1.0));
    (s.mul(twice, inner), s.mul(twice, slope))
}

struct GateMulBackward<'a> {
    kind: Gate,
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a [f32],
    d_gate: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl Kernel for GateMulBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        vectors!(S, self.gate.len(), |at, n| {
            let (gate, dy) = (get(s, self.gate, at, n), get(s, self.dy, at, n));
            let (sigma, slope) = match self.kind {
                Gate::Silu => {
                    let sigma = vector_logistic(s, gate);
                    (sigma, s.mul(sigma, s.mul_add(gate, s.sub(one, sigma), one)))
                }
                Gate::Gelu => {
                    let cdf = normal_cdf(s, gate);
                    let power = s.mul(s.mul(s.splat(-0.5), gate), gate);
                    let density = s.mul(s.splat(ROOT_DENSITY as f32), exp(s, power));
                    (cdf, s.mul_add(gate, density, cdf))
                }
                Gate::GeluTanh => {
                    let (inner, steep) = gelu_inner(s, gate);
                    let sigma = vector_logistic(s, inner);
                    let rise = s.mul(s.mul(gate, s.sub(one, sigma)), steep);
                    (sigma, s.mul(sigma, s.add(rise, one)))
                }
            };
            put(s, self.d_gate, at, n, s.mul(s.mul(dy, get(s, self.up, at, n)), slope));
            put(s, self.d_up, at, n, s.mul(s.mul(dy, gate), sigma));
        });
    }
}
