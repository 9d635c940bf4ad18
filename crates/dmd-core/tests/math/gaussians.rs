//! Gaussian to Gaussian: real N(m, s²), generator `x = b + a z`, so that the fake distribution is
//! N(b, a²) exactly and every expectation is known.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use dmd_core::{Denoiser, FewStep, GaussianMixture, Level, Noise, NoiseLevel};

use crate::{level, numbers};

const COUNT: usize = 40_000;

/// Means over the samples of `fake − real` and of `(fake − real) · z`, with standard errors.
fn moments(sigma: f64, (m, s): (f64, f64), (b, a): (f64, f64)) -> [(f64, f64); 2] {
    let device = Device::flex();
    let mut noise = Noise::from_seed(11);
    let z = noise.normal([COUNT, 1, 1, 1], &device);
    let eps = noise.normal([COUNT, 1, 1, 1], &device);
    let level = level(&vec![1.0; COUNT], &vec![sigma; COUNT]);
    let x_t = level.add_noise(z.clone() * a + b, eps);
    let real = GaussianMixture::new(&[(1.0, &[m], s)]).denoise(x_t.clone(), &level, &());
    let fake = GaussianMixture::new(&[(1.0, &[b], a)]).denoise(x_t, &level, &());
    let difference = fake - real;
    [difference.clone(), difference * z].map(|terms: Tensor<4>| {
        let terms = numbers(terms);
        let mean = terms.iter().sum::<f64>() / COUNT as f64;
        let variance = terms.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / COUNT as f64;
        (mean, (variance / COUNT as f64).sqrt())
    })
}

#[test]
fn expected_gradient_has_its_closed_form() {
    for (sigma, of_shift, of_scale) in [
        (0.1, 0.041_176_471, 0.041_965_567),
        (0.5, 0.426_829_268, 0.336_516_337),
        (2.0, 0.673_076_923, 0.116_943_867),
        (10.0, 0.698_881_789, 0.005_793_726),
    ] {
        let found = moments(sigma, (0.3, 0.4), (1.0, 0.9));
        for ((mean, error), expected) in found.into_iter().zip([of_shift, of_scale]) {
            assert!(
                (mean - expected).abs() <= 4.0 * error + 1e-6,
                "sigma {sigma}: {mean} ± {error}, expected {expected}"
            );
        }
    }
}

#[test]
fn no_gradient_when_the_distributions_agree() {
    for (mean, error) in moments(0.7, (0.3, 0.4), (0.3, 0.4)) {
        assert!(mean.abs() <= 4.0 * error + 1e-6, "{mean} ± {error}");
    }
}

/// A generator with two parameters, `x = b + a z`.
#[derive(Module, Debug)]
struct Affine {
    a: Param<Tensor<1>>,
    b: Param<Tensor<1>>,
}

impl Denoiser for Affine {
    type Condition = ();

    fn denoise(&self, z: Tensor<4>, _level: &NoiseLevel, _condition: &()) -> Tensor<4> {
        z * self.a.val().reshape([1, 1, 1, 1]) + self.b.val().reshape([1, 1, 1, 1])
    }
}

/// Descent along the unnormalised gradient, with the exact fake score, reaches the real
/// distribution: the whole method in two numbers.
#[test]
fn descent_reaches_the_real_distribution() {
    let device = Device::flex().autodiff();
    let parameter = |v: f32| Param::from_tensor(Tensor::<1>::from_floats([v], &device));
    let of = |affine| FewStep::new(affine, vec![Level::of_sigma(1.0)]);
    let mut generator = of(Affine { a: parameter(0.9), b: parameter(1.0) });
    let mut noise = Noise::from_seed(5);
    let plain = Device::flex();
    let value = |p: &Param<Tensor<1>>| numbers(p.val().without_autodiff())[0];
    let count = 512;
    for _ in 0..1500 {
        let z = noise.normal([count, 1, 1, 1], &plain);
        let x = generator.first(z, &());
        let fixed = x.clone().without_autodiff();
        let sigma = noise.uniform(0.05..=1.0, 1)[0];
        let level = level(&vec![1.0; count], &vec![sigma; count]);
        let x_t = level.add_noise(fixed, noise.normal([count, 1, 1, 1], &plain));
        let (a, b) = (value(&generator.denoiser.a), value(&generator.denoiser.b));
        let real = GaussianMixture::new(&[(1.0, &[0.3], 0.4)]).denoise(x_t.clone(), &level, &());
        let fake = GaussianMixture::new(&[(1.0, &[b], a)]).denoise(x_t, &level, &());
        let grads = dmd_core::matching::surrogate_loss(x, fake - real).backward();
        let step = |p: Param<Tensor<1>>| {
            let gradient = p.val().grad(&grads).expect("the generator is tracked");
            let moved = p.val().without_autodiff() - gradient * 0.05;
            Param::initialized(p.id, moved.autodiff().require_grad())
        };
        let Affine { a, b } = generator.denoiser;
        generator = of(Affine { a: step(a), b: step(b) });
    }
    let (a, b) = (value(&generator.denoiser.a), value(&generator.denoiser.b));
    // The stationary noise of steps of 0.05 over 512 samples is below 0.01.
    assert!((b - 0.3).abs() < 0.03, "mean {b}");
    assert!((a - 0.4).abs() < 0.03, "deviation {a}");
}
