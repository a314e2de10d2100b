//! What an encoder does to single rows: layer normalisation, and the activation of its feed-forward
//! blocks.

use bft_formats::Activation;

use super::math::{CUBIC, TWICE_ROOT, get, normal, normal_tail, put, vector_logistic, vectors};
use super::simd::{Kernel, Simd, dispatch};
use crate::real::Real;

/// n = (z − mean)/√(variance + eps), of a row z = x + r + shift, and what depends on it.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a, T> {
    /// Added to every row.
    pub shift: &'a [T],
    /// n is multiplied by it.
    pub weight: &'a [T],
    /// Added to the variance.
    pub eps: T,
}

impl<T: Real> LayerNorm<'_, T> {
    /// y = n·weight + bias
    pub fn forward(self, x: &[T], r: &[T], bias: &[T], y: &mut [T]) {
        let n = y.len();
        assert!([x.len(), r.len(), self.shift.len(), self.weight.len(), bias.len()] == [n; 5], "layer norm lengths");
        if let (Some(x), Some(r), Some(shift), Some(weight), Some(bias), Some(y)) =
            (T::f32s(x), T::f32s(r), T::f32s(self.shift), T::f32s(self.weight), T::f32s(bias), T::f32s_mut(y))
        {
            let eps = self.eps.to_f32();
            return dispatch(NormRow { x, r, shift, weight, bias, eps, y });
        }
        let (mean, scale) = self.moments(x, r);
        for i in 0..n {
            y[i] = (x[i] + r[i] + self.shift[i] - mean) * scale * self.weight[i] + bias[i];
        }
    }

    /// dx, the gradient of x and of r alike.
    pub fn backward(self, x: &[T], r: &[T], dy: &[T], dx: &mut [T]) {
        let (mean, scale) = self.moments(x, r);
        let count = T::from_f64(dx.len() as f64);
        let normed = |i: usize| (x[i] + r[i] + self.shift[i] - mean) * scale;
        let steepness = |i: usize| self.weight[i] * dy[i];
        let pull = (0..dx.len()).map(steepness).sum::<T>() / count;
        let turn = (0..dx.len()).map(|i| steepness(i) * normed(i)).sum::<T>() / count;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = scale * (steepness(i) - pull - normed(i) * turn);
        }
    }

    /// Mean and 1 / standard deviation of z.
    fn moments(&self, x: &[T], r: &[T]) -> (T, T) {
        let count = T::from_f64(x.len() as f64);
        let z = |i: usize| x[i] + r[i] + self.shift[i];
        let mean = (0..x.len()).map(z).sum::<T>() / count;
        let squares: T = (0..x.len()).map(|i| (z(i) - mean) * (z(i) - mean)).sum();
        (mean, T::ONE / (squares / count + self.eps).sqrt())
    }
}

struct NormRow<'a> {
    x: &'a [f32],
    r: &'a [f32],
    shift: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let y = self.y;
        let count = y.len() as f32;
        // y holds z meanwhile. The lanes beyond the last element are 0 in every sum.
        let mut sum = s.splat(0.0);
        vectors!(S, y.len(), |at, n| {
            let z = s.add(get(s, self.x, at, n), get(s, self.r, at, n));
            let z = s.add(z, get(s, self.shift, at, n));
            put(s, y, at, n, z);
            sum = s.add(sum, z);
        });
        let mean = s.sum(sum) / count;
        let whole = y.len() / S::LANES * S::LANES;
        let mut sum = s.splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let centred = s.sub(get(s, y, at, S::LANES), s.splat(mean));
            sum = s.mul_add(centred, centred, sum);
        }
        let rest: f32 = y[whole..].iter().map(|z| (z - mean) * (z - mean)).sum();
        let scale = 1.0 / ((s.sum(sum) + rest) / count + self.eps).sqrt();
        vectors!(S, y.len(), |at, n| {
            let centred = s.sub(get(s, y, at, n), s.splat(mean));
            let weight = s.mul(s.splat(scale), get(s, self.weight, at, n));
            let value = s.mul_add(centred, weight, get(s, self.bias, at, n));
            put(s, y, at, n, value);
        });
    }
}

/// y = f(x + bias), of one row.
pub fn activate<T: Real>(kind: Activation, x: &[T], bias: &[T], y: &mut [T]) {
    assert_eq!((x.len(), bias.len()), (y.len(), y.len()), "activation lengths");
    if let (Some(x), Some(bias), Some(y)) = (T::f32s(x), T::f32s(bias), T::f32s_mut(y)) {
        return dispatch(Activate { kind, x, bias, y });
    }
    for ((y, &x), &bias) in y.iter_mut().zip(x).zip(bias) {
        *y = value_and_slope(kind, x + bias).0;
    }
}

/// Gradient of x of [`activate`].
pub fn activate_backward<T: Real>(kind: Activation, x: &[T], bias: &[T], dy: &[T], dx: &mut [T]) {
    for (((dx, &x), &bias), &dy) in dx.iter_mut().zip(x).zip(bias).zip(dy) {
        *dx = dy * value_and_slope(kind, x + bias).1;
    }
}

fn value_and_slope<T: Real>(kind: Activation, x: T) -> (T, T) {
    let number = T::from_f64;
    match kind {
        Activation::Gelu => {
            let (cdf, density) = normal(x);
            (x * cdf, cdf + x * density)
        }
        Activation::GeluTanh => {
            let twice = number(TWICE_ROOT) * (x + number(CUBIC) * x * x * x);
            let s = T::ONE / (T::ONE + (-twice).exp());
            let slope = number(TWICE_ROOT) * (T::ONE + number(3.0 * CUBIC) * x * x);
            (x * s, s + x * s * (T::ONE - s) * slope)
        }
        Activation::Relu if x > T::ZERO => (x, T::ONE),
        Activation::Relu => (T::ZERO, T::ZERO),
    }
}

struct Activate<'a> {
    kind: Activation,
    x: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Activate { kind, x, bias, y } = self;
        match kind {
            Activation::Gelu => each(s, x, bias, y, |x| gelu(s, x)),
            Activation::GeluTanh => each(s, x, bias, y, |x| {
                let cube = s.mul(s.mul(x, x), x);
                let inner = s.mul_add(s.splat(CUBIC as f32), cube, x);
                s.mul(x, vector_logistic(s, s.mul(s.splat(TWICE_ROOT as f32), inner)))
            }),
            Activation::Relu => each(s, x, bias, y, |x| s.max(s.splat(0.0), x)),
        }
    }
}

#[inline(always)]
fn each<S: Simd>(s: S, x: &[f32], bias: &[f32], y: &mut [f32], f: impl Fn(S::V) -> S::V) {
    vectors!(S, y.len(), |at, n| {
        let z = s.add(get(s, x, at, n), get(s, bias, at, n));
        put(s, y, at, n, f(z));
    });
}

/// x·Φ(x)
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let magnitude = s.max(x, s.sub(s.splat(0.0), x));
    // x ≥ 0: x·(1 − tail) = x − x·tail; x < 0: x·tail.
    s.sub(s.max(x, s.splat(0.0)), s.mul(magnitude, normal_tail(s, magnitude)))
}
