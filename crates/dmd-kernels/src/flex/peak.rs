//! What the processor reaches in registers alone.

use std::time::Instant;

use pulp::{Simd, WithSimd};

use super::instructions::arch;

/// Sums that are added to at a time: more than two units with a latency of four cycles need, and few enough for the 16 registers
/// of AVX2 together with the two factors.
const SUMS: usize = 12;
/// Additions to each sum; some milliseconds.
const TIMES: usize = 4_000_000;
/// Trials, of which the fastest counts.
const TRIALS: usize = 9;

/// A loop of fused multiplications and additions on registers; its value keeps it from being left out.
struct InRegisters;

impl WithSimd for InRegisters {
    type Output = (f32, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, usize) {
        let (factor, term) = (simd.splat_f32s(0.999), simd.splat_f32s(1e-3));
        let mut sums = [simd.splat_f32s(0.5); SUMS];
        for _ in 0..TIMES {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, term);
            }
        }
        let all = sums.into_iter().fold(simd.splat_f32s(0.0), |a, b| simd.add_f32s(a, b));
        (simd.reduce_sum_f32s(all), S::F32_LANES)
    }
}

/// Operations that all threads of the pool do in a second, in single precision and without memory: a fused multiplication and
/// addition counts as two.
pub(crate) fn processor_peak() -> f64 {
    let trial = || {
        let start = Instant::now();
        let found = rayon::broadcast(|_| arch().dispatch(InRegisters));
        let seconds = start.elapsed().as_secs_f64();
        let lanes: usize = found.iter().map(|(sum, lanes)| if sum.is_finite() { *lanes } else { 0 }).sum();
        2.0 * (SUMS * TIMES * lanes) as f64 / seconds
    };
    (0..TRIALS).map(|_| trial()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.5 moves to `term / (1 − factor)`, which is 1: the loop ran, in every lane.
    #[test]
    fn the_loop_converges() {
        let (sum, lanes) = arch().dispatch(InRegisters);
        assert!((sum / (SUMS * lanes) as f32 - 1.0).abs() < 1e-3, "{sum} in {lanes} lanes");
        assert!(
            processor_peak() > 1e9,
            "any processor of today does more than a thousand million operations a second"
        );
    }
}
