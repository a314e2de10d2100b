//! What the processor could do at most: the roof that products are measured against.

use std::hint::black_box;
use std::time::Instant;

use super::simd::{Kernel, Simd, dispatch};

/// Multiplications and additions a second of one thread that does nothing else, in registers: the best of a few short rounds.
pub fn peak_flops() -> f64 {
    const STEPS: usize = 200_000;
    let round = |_| {
        let start = Instant::now();
        let flops = dispatch(Peak { steps: STEPS });
        flops as f64 / start.elapsed().as_secs_f64()
    };
    (0..20).map(round).fold(0.0, f64::max)
}

/// Returns how many multiplications and additions it did.
struct Peak {
    steps: usize,
}

impl Kernel for Peak {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // Enough sums that none waits for itself, few enough for the registers of every instruction set.
        const SUMS: usize = 12;
        let (x, y) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut sums = [s.splat(0.0); SUMS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, x, y);
            }
        }
        for sum in sums {
            black_box(s.sum(sum));
        }
        self.steps * SUMS * S::LANES * 2
    }
}
