//! The loops over one group's numbers, vectorised by the compiler for the processor at hand.

pub(crate) struct Affine<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) silu: bool,
}

pub(crate) struct Gradient<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) gamma: &'a mut [f32],
    pub(crate) beta: &'a mut [f32],
}

const LANES: usize = 16;

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

/// Sums of `a` and of `a · b`, likewise.
#[inline(always)]
fn sum_and_dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut sums, mut dots) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest_a = a_chunks.remainder();
    let rest_b = b_chunks.remainder();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane];
            dots[lane] += a[lane] * b[lane];
        }
    }
    let mut sum: f64 = sums.iter().map(|v| f64::from(*v)).sum();
    let mut dot: f64 = dots.iter().map(|v| f64::from(*v)).sum();
    for (a, b) in rest_a.iter().zip(rest_b) {
        sum += f64::from(*a);
        dot += f64::from(*a * *b);
    }
    (sum, dot)
}

/// Mean and reciprocal standard deviation of a group.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (sum_of(x, |v| v) / n) as f32;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / n;
    (mean, (1.0 / (variance + epsilon).sqrt()) as f32)
}

/// `1 / (1 + exp(−x))` without branches, so that the compiler vectorises it.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exponential(-x))
}

/// The exponential without branches: the usual reduction to `[−ln 2 / 2, ln 2 / 2]` with Cephes' degree-6
/// polynomial, relative error below 2e-7 over the range it is clamped to, −87 to 87.
#[inline(always)]
pub(crate) fn exponential(x: f32) -> f32 {
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

/// Normalises and activates one group.
pub(crate) fn forward_group(
    x: &[f32],
    out: &mut [f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f64,
    silu: bool,
) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (mean, rstd) = statistics(x, epsilon);
            let positions = x.len() / gamma.len();
            for (c, (x, out)) in x.chunks_exact(positions).zip(out.chunks_exact_mut(positions)).enumerate() {
                let scale = rstd * gamma[c];
                let shift = beta[c] - mean * scale;
                if silu {
                    for (out, x) in out.iter_mut().zip(x) {
                        let z = x * scale + shift;
                        *out = z * sigmoid(z);
                    }
                } else {
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = x * scale + shift;
                    }
                }
            }
        },
    );
}

/// The gradients of one group.
pub(crate) fn backward_group(x: &[f32], grad: &[f32], affine: &Affine<'_>, epsilon: f64, out: Gradient<'_>) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (mean, rstd) = statistics(x, epsilon);
            let positions = x.len() / affine.gamma.len();
            // Means over the group of the gradient of the normalised value, and of its product with it.
            let (mut mean_grad, mut mean_dot) = (0.0_f64, 0.0_f64);
            for (c, (x, grad)) in x.chunks_exact(positions).zip(grad.chunks_exact(positions)).enumerate() {
                let gamma = affine.gamma[c];
                let scale = rstd * gamma;
                let shift = affine.beta[c] - mean * scale;
                let grad_z = &mut out.x[c * positions..(c + 1) * positions];
                if affine.silu {
                    for ((g, x), grad) in grad_z.iter_mut().zip(x).zip(grad) {
                        let z = x * scale + shift;
                        let s = sigmoid(z);
                        *g = grad * (s + z * s * (1.0 - s));
                    }
                } else {
                    grad_z.copy_from_slice(grad);
                }
                let (sum, dot_x) = sum_and_dot(grad_z, x);
                let dot = (dot_x - sum * f64::from(mean)) * f64::from(rstd);
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
                    let normal = (x - mean) * rstd;
                    *g = rstd * (*g * gamma - mean_grad - normal * mean_dot);
                }
            }
        },
    );
}
