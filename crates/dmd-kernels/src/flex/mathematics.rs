//! Functions of one number that the loops share, without branches, so that the compiler vectorises them.

/// `1 / (1 + exp(−x))` without branches, so that the compiler vectorises it.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x))
}

/// The exponential without branches: the usual reduction to `[−ln 2 / 2, ln 2 / 2]` with Cephes' degree-6
/// polynomial, relative error below 2e-7 over the range it is clamped to, −87 to 87.
#[inline(always)]
pub(super) fn exponential(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let v = x.clamp(-87.0, 87.0);
    let shifted = v * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = v - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let exp = p * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    exp * scale
}

/// `(1 + erf(x / √2)) / 2` and the normal density at `x`. Abramowitz and Stegun's 7.1.26: off by at most 1.5e-7.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let half = exponential(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut p = 1.061_405_4_f32;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * half;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, half * 0.398_942_3)
}
