//! The loops over one group's numbers, vectorised by the compiler for the processor at hand.

use super::instructions::vectorised;
use super::mathematics::sigmoid;

pub(super) struct Affine<'a> {
    pub(super) gamma: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) silu: bool,
}

pub(super) struct Gradient<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) gamma: &'a mut [f32],
    pub(super) beta: &'a mut [f32],
}

const LANES: usize = 16;
/// Values whose statistics are computed at a time, 16 KiB.
const PART: usize = 1 << 12;

/// Sum of `f(value)` in sixteen running sums, added up in f64.
#[inline(always)]
fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(f(*v))).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    rest + lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>()
}

/// Sums of `v − centre` and of its square, likewise.
#[inline(always)]
fn sum_and_squares(values: &[f32], centre: f32) -> (f64, f64) {
    let (mut sums, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane] - centre;
            sums[lane] += value;
            squares[lane] += value * value;
        }
    }
    let total = |lanes: [f32; LANES]| lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
    let rest = rest.iter().map(|v| f64::from(*v - centre));
    rest.fold((total(sums), total(squares)), |(sum, squares), v| (sum + v, squares + v * v))
}

/// Sums of `a` and of `a · (b − centre)`, likewise.
#[inline(always)]
fn sum_and_dot(a: &[f32], b: &[f32], centre: f32) -> (f64, f64) {
    let (mut sums, mut dots) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest_a = a_chunks.remainder();
    let rest_b = b_chunks.remainder();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane];
            dots[lane] += a[lane] * (b[lane] - centre);
        }
    }
    let mut sum: f64 = sums.iter().map(|v| f64::from(*v)).sum();
    let mut dot: f64 = dots.iter().map(|v| f64::from(*v)).sum();
    for (a, b) in rest_a.iter().zip(rest_b) {
        sum += f64::from(*a);
        dot += f64::from(*a * (*b - centre));
    }
    (sum, dot)
}

/// How a group's values become normal: `(x − centre − rest) / deviation`, up to rounding.
///
/// In single precision `x · scale + shift` is off by about `2⁻²⁴ · |mean| / deviation`, since the mean, times the scale, is
/// added and subtracted. That is as good as any other way for means of a few deviations, and the fastest. Where the
/// mean is larger, `centre` is the rounded mean, which is subtracted exactly, and `rest` what rounding took from it;
/// elsewhere `centre` is zero.
#[derive(Clone, Copy)]
struct Statistics {
    centre: f32,
    /// The mean without `centre`.
    rest: f32,
    /// One by the deviation.
    rstd: f32,
}

/// Means of more deviations than this are subtracted first. Below it three of 24 bits are lost at most.
const FAR: f64 = 8.0;

impl Statistics {
    #[inline(always)]
    fn of(x: &[f32], epsilon: f64) -> Self {
        // Mean, and sum of the squares of what deviates from it, of the values so far. Parts stay in the first cache.
        let (mut count, mut mean, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
        for part in x.chunks(PART) {
            let n = part.len() as f64;
            let near = (sum_of(part, |v| v) / n) as f32;
            // What single precision missed of the mean is the mean of what is left.
            let (rest, around) = sum_and_squares(part, near);
            let rest = rest / n;
            let far = f64::from(near) + rest - mean;
            squares += around - rest * rest * n + far * far * count * n / (count + n);
            count += n;
            mean += far * n / count;
        }
        let variance = (squares / count).max(0.0) + epsilon;
        let near = if mean * mean <= FAR * FAR * variance { 0.0 } else { mean as f32 };
        let rest = (mean - f64::from(near)) as f32;
        Self { centre: near, rest, rstd: (1.0 / variance.sqrt()) as f32 }
    }

    /// The two numbers `a` and `b` of `(x − centre) · a + b`: normalisation and a channel's `gamma` and `beta`.
    #[inline(always)]
    fn affine(self, gamma: f32, beta: f32) -> (f32, f32) {
        let scale = self.rstd * gamma;
        (scale, beta - self.rest * scale)
    }
}

/// What a normalisation makes of a channel's values: `(x − centre) · scale + shift`, then the activation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Normal {
    centre: f32,
    scale: f32,
    shift: f32,
    silu: bool,
}

impl Normal {
    /// In place.
    #[inline(always)]
    pub(super) fn apply(self, x: &mut [f32]) {
        let Self { centre, scale, shift, silu } = self;
        if silu {
            for x in x {
                let z = (*x - centre) * scale + shift;
                *x = z * sigmoid(z);
            }
        } else {
            for x in x {
                *x = (*x - centre) * scale + shift;
            }
        }
    }
}

/// What one group's normalisation makes of each of its channels.
pub(super) fn normals(x: &[f32], affine: &Affine<'_>, epsilon: f64, out: &mut [Normal]) {
    let statistics = vectorised(
        #[inline(always)]
        || Statistics::of(x, epsilon),
    );
    for (c, out) in out.iter_mut().enumerate() {
        let (scale, shift) = statistics.affine(affine.gamma[c], affine.beta[c]);
        *out = Normal { centre: statistics.centre, scale, shift, silu: affine.silu };
    }
}

/// Normalises and activates one group.
pub(super) fn forward_group(
    x: &[f32],
    out: &mut [f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f64,
    silu: bool,
) {
    vectorised(
        #[inline(always)]
        || {
            let statistics = Statistics::of(x, epsilon);
            let centre = statistics.centre;
            let positions = x.len() / gamma.len();
            for (c, (x, out)) in x.chunks_exact(positions).zip(out.chunks_exact_mut(positions)).enumerate() {
                let (scale, shift) = statistics.affine(gamma[c], beta[c]);
                if silu {
                    for (out, x) in out.iter_mut().zip(x) {
                        let z = (x - centre) * scale + shift;
                        *out = z * sigmoid(z);
                    }
                } else {
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = (x - centre) * scale + shift;
                    }
                }
            }
        },
    );
}

/// The gradients of one group.
pub(super) fn backward_group(x: &[f32], grad: &[f32], affine: &Affine<'_>, epsilon: f64, out: Gradient<'_>) {
    vectorised(
        #[inline(always)]
        || {
            let statistics = Statistics::of(x, epsilon);
            let Statistics { centre, rest, rstd } = statistics;
            let positions = x.len() / affine.gamma.len();
            // Means over the group of the gradient of the normalised value, and of its product with it.
            let (mut mean_grad, mut mean_dot) = (0.0_f64, 0.0_f64);
            for (c, (x, grad)) in x.chunks_exact(positions).zip(grad.chunks_exact(positions)).enumerate() {
                let gamma = affine.gamma[c];
                let (scale, shift) = statistics.affine(gamma, affine.beta[c]);
                let grad_z = &mut out.x[c * positions..(c + 1) * positions];
                if affine.silu {
                    for ((g, x), grad) in grad_z.iter_mut().zip(x).zip(grad) {
                        let z = (x - centre) * scale + shift;
                        let s = sigmoid(z);
                        *g = grad * (s + z * s * (1.0 - s));
                    }
                } else {
                    grad_z.copy_from_slice(grad);
                }
                let (sum, dot_x) = sum_and_dot(grad_z, x, centre);
                let dot = (dot_x - sum * f64::from(rest)) * f64::from(rstd);
                out.gamma[c] = dot as f32;
                out.beta[c] = sum as f32;
                mean_grad += sum * f64::from(gamma);
                mean_dot += dot * f64::from(gamma);
            }
            let n = x.len() as f64;
            let (mean_grad, mean_dot) = ((mean_grad / n) as f32, (mean_dot / n) as f32);
            for (c, x) in x.chunks_exact(positions).enumerate() {
                let gamma = affine.gamma[c];
                for (g, x) in out.x[c * positions..].iter_mut().zip(x) {
                    let normal = (x - centre - rest) * rstd;
                    *g = rstd * (*g * gamma - mean_grad - normal * mean_dot);
                }
            }
        },
    );
}
