//! What the processor could do at most: the roof that products are measured against.

use std::hint::black_box;
use std::time::Instant;

use super::scratch::Scratch;
use super::simd::panel::{LINES, STEP, SUMS, Sums, TERMS};
use super::simd::{Kernel, MatrixUnit, Simd, dispatch, matrix_unit};

/// Multiplications and additions a second, in f32, of one thread that does nothing else, in
/// registers, or by a matrix unit from the first cache: the best of a few short rounds.
pub fn peak_flops() -> f64 {
    let round = |_| {
        let start = Instant::now();
        let flops = match matrix_unit() {
            Some(unit) => tiles(unit),
            None => dispatch(Peak { steps: 200_000 }),
        };
        flops as f64 / start.elapsed().as_secs_f64()
    };
    (0..20).map(round).fold(0.0, f64::max)
}

/// Multiplies the same few steps of two panels. Returns how many multiplications and additions that
/// is.
fn tiles(unit: MatrixUnit) -> usize {
    const STEPS: usize = 3;
    const ROUNDS: usize = 20_000;
    let mut scratch = Scratch::take(2 * STEPS * STEP);
    let panels = &mut scratch.floats()[..2 * STEPS * STEP];
    panels.fill(1.0);
    let (a, b) = panels.split_at(STEPS * STEP);
    let mut sums = Sums([0.0; SUMS]);
    // SAFETY: no other tiles live on this thread, which does nothing else meanwhile.
    let tiles = unsafe { unit.tiles() };
    for _ in 0..ROUNDS {
        // SAFETY: both panels hold STEPS steps; `ahead` is only fetched, so that it need not be
        // readable.
        unsafe { tiles.multiply(a.as_ptr(), b.as_ptr(), a.as_ptr(), STEPS, &mut sums) };
        black_box(&sums);
    }
    ROUNDS * STEPS * LINES * LINES * TERMS * 2
}

/// Returns how many multiplications and additions it did.
struct Peak {
    steps: usize,
}

impl Kernel for Peak {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // Enough sums that none waits for itself, few enough for the registers of every instruction
        // set.
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
