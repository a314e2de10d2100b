//! The numbers a CPU operation runs on: f32 to work, f64 to check gradients.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// f32 or f64.
pub trait Real:
    Copy
    + Send
    + Sync
    + 'static
    + Default
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// −∞
    const NEG_INFINITY: Self;
    /// The elements where they are f32, which the fast kernels take.
    fn f32s(x: &[Self]) -> Option<&[f32]>;
    /// As [`Self::f32s`].
    fn f32s_mut(x: &mut [Self]) -> Option<&mut [f32]>;
    /// From f32, exactly.
    fn from_f32(value: f32) -> Self;
    /// From f64, rounded.
    fn from_f64(value: f64) -> Self;
    /// To f32, rounded.
    fn to_f32(self) -> f32;
    /// To f64, exactly.
    fn to_f64(self) -> f64;
    /// eˣ
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// ln(1 + x), precise near 0.
    fn ln_1p(self) -> Self;
    /// The complementary error function.
    fn erfc(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger; of a NaN and a number, the number.
    fn max(self, other: Self) -> Self;
    /// The smaller; of a NaN and a number, the number.
    fn min(self, other: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

/// Methods that the number types have themselves.
macro_rules! own {
    ($($name:ident($($x:ident)?) -> $made:ty;)+) => {$(
        fn $name(self $(, $x: Self)?) -> $made {
            self.$name($($x)?)
        }
    )+};
}

macro_rules! real {
    ($t:ident, $erfc:path, $f32s:expr, $f32s_mut:expr) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            fn f32s(x: &[Self]) -> Option<&[f32]> {
                ($f32s)(x)
            }
            fn f32s_mut(x: &mut [Self]) -> Option<&mut [f32]> {
                ($f32s_mut)(x)
            }
            fn from_f32(value: f32) -> Self {
                value as $t
            }
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn erfc(self) -> Self {
                $erfc(self)
            }
            own! {
                exp() -> Self;
                ln() -> Self;
                ln_1p() -> Self;
                sqrt() -> Self;
                max(other) -> Self;
                min(other) -> Self;
                is_finite() -> bool;
            }
        }
    };
}

real!(f32, libm::erfcf, Some, Some);
real!(f64, libm::erfc, |_| None, |_| None);
