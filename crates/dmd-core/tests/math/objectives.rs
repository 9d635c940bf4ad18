//! The objectives against closed forms, with exact scores of Gaussian mixtures for teacher and fake score.

use burn::tensor::{Device, Tensor};
use dmd_core::matching::Weighting;
use dmd_core::objective::{
    DecoupledGuidance, Divergence, FDivergence, Lacks, Matched, Networks, Objective, ScoreIdentity,
};
use dmd_core::{Denoiser, Diffusion, GaussianMixture, Noise, NoiseLevel, TimeSampler};

use crate::{assert_near, column, numbers, row};

/// The schedule of these tests: `alpha = 0.8`, and `sigma` the time itself.
const ALPHA: f64 = 0.8;

/// A Gaussian mixture on a line: weight, mean and deviation of each component.
#[derive(Clone)]
struct Line(Vec<(f64, f64, f64)>);

impl Line {
    fn mixture(&self) -> GaussianMixture {
        let components: Vec<(f64, [f64; 1], f64)> = self.0.iter().map(|(w, m, s)| (*w, [*m], *s)).collect();
        let components: Vec<(f64, &[f64], f64)> =
            components.iter().map(|(w, m, s)| (*w, &m[..], *s)).collect();
        GaussianMixture::new(&components)
    }

    /// The density of the diffused mixture.
    fn density(&self, sigma: f64, x: f64) -> f64 {
        let terms = self.0.iter().map(|(w, m, s)| {
            let variance = (ALPHA * s).powi(2) + sigma * sigma;
            w * (-(x - ALPHA * m).powi(2) / (2.0 * variance)).exp()
                / (2.0 * std::f64::consts::PI * variance).sqrt()
        });
        terms.sum()
    }

    /// `E[x0 | x_t]`, in f64.
    fn predicted(&self, sigma: f64, x_t: f64) -> f64 {
        let terms = self.0.iter().map(|(w, m, s)| {
            let variance = (ALPHA * s).powi(2) + sigma * sigma;
            let density = w * (-(x_t - ALPHA * m).powi(2) / (2.0 * variance)).exp() / variance.sqrt();
            (density, density * (m + ALPHA * s * s / variance * (x_t - ALPHA * m)))
        });
        let (total, weighted) = terms.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
        weighted / total
    }
}

/// Exact networks: a teacher under a condition and without it, a fake score, and the critic that both densities imply.
struct Exact {
    teacher: Line,
    unconditional: Option<Line>,
    fake: Line,
    critic: bool,
}

impl Networks for Exact {
    fn level(&self, diffusion: &Diffusion) -> NoiseLevel {
        let t = diffusion.t.clone();
        NoiseLevel { alpha: t.ones_like() * ALPHA, sigma: t.clone(), t }
    }

    fn teacher(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.teacher.mixture().denoise(x_t, level, &())
    }

    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.teacher(x_t, level)
    }

    fn branches(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<[Tensor<4>; 2]> {
        let unconditional = self.unconditional.as_ref()?.mixture().denoise(x_t.clone(), level, &());
        Some([self.teacher(x_t, level), unconditional])
    }

    fn fake(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.fake.mixture().denoise(x_t, level, &())
    }

    fn both(&self, x_t: Tensor<4>, level: &NoiseLevel) -> [Tensor<4>; 2] {
        [self.teacher(x_t.clone(), level), self.fake(x_t, level)]
    }

    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<Tensor<2>> {
        self.critic.then(|| {
            let ratio =
                |(x, sigma): (f64, f64)| (self.teacher.density(sigma, x) / self.fake.density(sigma, x)).ln();
            let values: Vec<f64> =
                numbers(x_t).into_iter().zip(numbers(level.sigma.clone())).map(ratio).collect();
            row(&values).reshape([values.len(), 1])
        })
    }
}

/// A diffusion of samples with noise and a time for each.
fn diffusion(eps: &[f64], sigma: f64) -> Diffusion {
    Diffusion { eps: column(eps), t: row(&vec![sigma; eps.len()]) }
}

/// The loss of samples, and its gradient in each of them.
fn gradient(
    objective: &dyn Objective,
    networks: &Exact,
    x: &[f64],
    diffusion: &Diffusion,
    second: Option<&Diffusion>,
) -> (f64, Vec<f64>) {
    let x = column(x).autodiff().require_grad();
    let loss = objective.loss(&Matched { x: &x, diffusion, second, networks }).unwrap();
    let value = numbers(loss.clone().without_autodiff())[0];
    (value, numbers(x.grad(&loss.backward()).unwrap()))
}

fn teacher() -> Line {
    Line(vec![(0.3, -1.0, 0.2), (0.7, 0.8, 0.4)])
}

/// The quantiles of a standard normal distribution in the middle of so many equal shares, by bisection of its integral.
fn quantiles(count: usize) -> Vec<f64> {
    let (step, most) = (1e-4, 6.0);
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (mut found, mut x, mut integral) = (Vec::new(), -most, 0.0);
    while found.len() < count {
        let next = integral + step * density(x + step / 2.0);
        let wanted = (found.len() as f64 + 0.5) / count as f64;
        if next >= wanted {
            found.push(x + step * (wanted - integral) / (next - integral));
        } else {
            (x, integral) = (x + step, next);
        }
    }
    found
}

/// The mean gradient of samples that are all at `b` is the derivative in `b` of the divergence between the diffused
/// distributions, which an integral gives.
#[test]
fn f_divergences_descend_along_their_derivative() {
    let (sigma, b, count) = (0.9, 0.2, 4000);
    let eps = quantiles(count);
    // A deviation of 0 is none of a mixture; its square is below the other errors.
    let at = |b: f64| Line(vec![(1.0, b, 1e-3)]);
    let networks = Exact { teacher: teacher(), unconditional: None, fake: at(b), critic: true };
    type Function = fn(f64) -> f64;
    let functions: [(Divergence, Function); 4] = [
        (Divergence::ReverseKl, |r| -r.ln()),
        (Divergence::ForwardKl, |r| r * r.ln()),
        (Divergence::JensenShannon, |r| r * r.ln() - (r + 1.0) * ((r + 1.0) / 2.0).ln()),
        (Divergence::Hellinger, |r| 4.0 * (1.0 - r.sqrt())),
    ];
    let mut found = Vec::new();
    for (divergence, f) in functions {
        let of = |b: f64| -> f64 {
            let step = 1e-3;
            let points = (-8000..=8000).map(|i| f64::from(i) * step);
            let terms = points.map(|x| {
                let (p, q) = (teacher().density(sigma, x), at(b).density(sigma, x));
                if q > 1e-280 { q * f(p / q) * step } else { 0.0 }
            });
            terms.sum()
        };
        let expected = (of(b + 1e-4) - of(b - 1e-4)) / 2e-4;
        // Without bounds; `sigma / alpha` is the weight that makes the scores' difference of that of the predictions.
        let objective = FDivergence { divergence, weighting: Weighting::SigmaOverAlpha, ratios: [1e-9, 1e9] };
        let (_, gradients) = gradient(&objective, &networks, &vec![b; count], &diffusion(&eps, sigma), None);
        let factors = eps.iter().map(|e| {
            let x_t = ALPHA * b + sigma * e;
            let ratio = teacher().density(sigma, x_t) / at(b).density(sigma, x_t);
            numbers(divergence.factor(row(&[ratio])))[0]
        });
        // The factors were divided by their mean; alpha / sigma is what is left of the chain rule.
        let mean = factors.sum::<f64>() / count as f64;
        let sum = gradients.iter().sum::<f64>() * mean * ALPHA / sigma;
        // Quantiles end at 3.7 deviations, which forward KL notices most; sums in f32.
        assert!((sum - expected).abs() < 5e-3 * expected.abs(), "{divergence:?}: {sum}, expected {expected}");
        found.push(expected);
    }
    assert!((found[0] - found[1]).abs() > 0.02 * found[0].abs(), "the divergences differ here: {found:?}");
}

/// The published bounds of the ratio, and a mean factor of 1.
#[test]
fn ratios_are_bounded() {
    let networks =
        Exact { teacher: teacher(), unconditional: None, fake: Line(vec![(1.0, 6.0, 0.1)]), critic: true };
    // A ratio near 0 at 6, a huge one at 0.
    let (x, at) = ([6.0, 0.0], diffusion(&[0.0, 0.0], 0.3));
    let forward = FDivergence::new(Divergence::ForwardKl);
    let (_, weighted) = gradient(&forward, &networks, &x, &at, None);
    let (_, plain) = gradient(&Weighting::Normalised, &networks, &x, &at, None);
    let mean = (0.1 + 20.0) / 2.0;
    assert_near(&weighted, &[plain[0] * 0.1 / mean, plain[1] * 20.0 / mean], 1e-5);
    let (_, reverse) = gradient(&FDivergence::new(Divergence::ReverseKl), &networks, &x, &at, None);
    assert_near(&reverse, &plain, 1e-6);
}

/// With `τ₁ = τ₂` it is DMD's gradient with a guided teacher; with two times each part has its own.
#[test]
fn decoupled_guidance_is_a_sum_of_two_parts() {
    let (c, u, f) = (teacher(), Line(vec![(1.0, 0.1, 1.0)]), Line(vec![(1.0, 0.3, 0.5)]));
    let networks =
        Exact { teacher: c.clone(), unconditional: Some(u.clone()), fake: f.clone(), critic: false };
    let (scale, x) = (3.0, [0.5, -0.7, 0.1]);
    let objective = DecoupledGuidance { scale, floor: 0.05, times: TimeSampler::Grid(vec![1.0]) };
    assert!(objective.second_times().is_some());
    for (first, second) in [(0.5, 0.5), (0.4, 1.3)] {
        let (eps, other) =
            ([0.3, -1.0, 0.6], if first == second { [0.3, -1.0, 0.6] } else { [1.2, 0.1, -0.4] });
        let (at, then) = (diffusion(&eps, first), diffusion(&other, second));
        let (_, found) = gradient(&objective, &networks, &x, &at, Some(&then));
        let expected: Vec<f64> = (0..3)
            .map(|i| {
                let (x_t, later) = (ALPHA * x[i] + first * eps[i], ALPHA * x[i] + second * other[i]);
                let real = c.predicted(first, x_t);
                let matching = (f.predicted(first, x_t) - real) / (x[i] - real).abs().max(0.05);
                let real = c.predicted(second, later);
                let guidance = (real - u.predicted(second, later)) / (x[i] - real).abs().max(0.05);
                (matching - (scale - 1.0) * guidance) / 3.0
            })
            .collect();
        assert_near(&found, &expected, 1e-4);
        if first == second {
            let guided = |i: usize| {
                let x_t = ALPHA * x[i] + first * eps[i];
                let (c, u) = (c.predicted(first, x_t), u.predicted(first, x_t));
                (f.predicted(first, x_t) - (u + scale * (c - u))) / (x[i] - c).abs().max(0.05) / 3.0
            };
            assert_near(&found, &[guided(0), guided(1), guided(2)], 1e-4);
        }
    }
    let x = column(&x).autodiff().require_grad();
    let at = diffusion(&[0.0; 3], 0.5);
    let lacks = |networks: &Exact, second| {
        objective.loss(&Matched { x: &x, diffusion: &at, second, networks }).unwrap_err()
    };
    assert_eq!(lacks(&networks, None), Lacks::Diffusion);
    assert_eq!(lacks(&Exact { unconditional: None, ..networks }, Some(&at)), Lacks::Guidance);
}

/// Of two Gaussians both predictions are lines in `x_t`, so that the gradient through them has a closed form.
#[test]
fn score_identity_flows_through_the_networks() {
    let ((m, s), (b, a), sigma) = ((0.3, 0.4), (-0.2, 0.9), 0.7);
    let networks = Exact {
        teacher: Line(vec![(1.0, m, s)]),
        unconditional: None,
        fake: Line(vec![(1.0, b, a)]),
        critic: false,
    };
    let (x, eps) = ([0.5, -0.7, 0.1], [0.3, -1.0, 0.6]);
    let slope = |s: f64| ALPHA * ALPHA * s * s / ((ALPHA * s).powi(2) + sigma * sigma);
    for alpha in [0.5, 1.0, 1.2] {
        let (value, found) =
            gradient(&ScoreIdentity::new(alpha), &networks, &x, &diffusion(&eps, sigma), None);
        let terms: Vec<(f64, f64)> = (0..3)
            .map(|i| {
                let x_t = ALPHA * x[i] + sigma * eps[i];
                let (real, fake) =
                    (networks.teacher.predicted(sigma, x_t), networks.fake.predicted(sigma, x_t));
                let (difference, change) = (real - fake, slope(s) - slope(a));
                let inner = (real - x[i]) - alpha * difference;
                let scale = 3.0 * (x[i] - real).abs();
                let slope = change * inner + difference * ((slope(s) - 1.0) - alpha * change);
                (difference * inner / scale, slope / scale)
            })
            .collect();
        assert_near(&found, &terms.iter().map(|(_, slope)| *slope).collect::<Vec<_>>(), 1e-4);
        assert_near(&[value], &[terms.iter().map(|(value, _)| value).sum()], 1e-4);
    }
}

/// With the exact fake score `E[(R − F) · (F − x)] = 0`, so the loss is `(1 − alpha) · E|R − F|²`: SiD's identity, on a mixture.
#[test]
fn score_identity_is_a_share_of_the_squared_difference() {
    const COUNT: usize = 40_000;
    let (b, a, sigma, floor) = (0.5, 0.6, 0.8, 1e3);
    let mut noise = Noise::from_seed(12);
    let x: Vec<f64> = noise.normals(COUNT).into_iter().map(|z| b + a * z).collect();
    let eps = noise.normals(COUNT);
    let networks =
        Exact { teacher: teacher(), unconditional: None, fake: Line(vec![(1.0, b, a)]), critic: false };
    let squares = x.iter().zip(&eps).map(|(x, eps)| {
        let x_t = ALPHA * x + sigma * eps;
        (networks.teacher.predicted(sigma, x_t) - networks.fake.predicted(sigma, x_t)).powi(2)
    });
    let expected = squares.sum::<f64>() / COUNT as f64;
    let at = diffusion(&eps, sigma);
    for alpha in [0.0, 0.5, 1.0, 1.2] {
        // A divisor that is the same for all samples.
        let objective = ScoreIdentity { alpha, floor };
        let x = column(&x).to_device(&Device::flex());
        let matched = Matched { x: &x, diffusion: &at, second: None, networks: &networks };
        let found = floor * numbers(objective.loss(&matched).unwrap())[0];
        // |R − F| and |F − x| are about 0.5: four standard errors of a mean of 40 000 products are 0.005.
        assert!((found - (1.0 - alpha) * expected).abs() < 5e-3, "{alpha}: {found}, {expected}");
    }
    assert!(expected > 0.03, "the distributions differ: {expected}");
}
