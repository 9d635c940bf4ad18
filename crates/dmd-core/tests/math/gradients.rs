//! Gradients against another way to get them, and where they may flow.

use burn::tensor::{Device, Tensor};
use dmd_core::{Denoiser, GaussianMixture, Guided, Noise, matching, score};

use crate::{assert_near, column, level, numbers, row};

/// `∂L/∂x = g / numel`, exactly, and nothing else.
#[test]
fn surrogate_backward_is_the_gradient_over_its_size() {
    let device = Device::flex();
    let mut noise = Noise::from_seed(2);
    let x = noise.normal([3, 2, 4, 4], &device).autodiff().require_grad();
    let g = noise.normal([3, 2, 4, 4], &device);
    let grads = matching::surrogate_loss(x.clone(), g.clone()).backward();
    assert_near(&numbers(x.grad(&grads).unwrap()), &numbers(g / 96.0), 1e-6);
}

/// The mixture's score is the derivative of its log density, by finite differences in f64.
#[test]
fn mixture_score_is_the_derivative_of_its_log_density() {
    let (alpha, sigma) = (0.7_f64, 0.5_f64);
    let components = [(0.3, -1.0, 0.2), (0.7, 0.8, 0.4)];
    let log_density = |x: f64| {
        let terms = components.map(|(w, m, s): (f64, f64, f64)| {
            let variance = alpha * alpha * s * s + sigma * sigma;
            w * (-(x - alpha * m).powi(2) / (2.0 * variance)).exp() / variance.sqrt()
        });
        terms.iter().sum::<f64>().ln()
    };
    let mixture = GaussianMixture::new(&[(0.3, &[-1.0], 0.2), (0.7, &[0.8], 0.4)]);
    for x in [-2.0, -0.6, 0.0, 0.31, 1.7] {
        let level = level(&[alpha], &[sigma]);
        let x0 = mixture.denoise(column(&[x]), &level, &());
        let found = numbers(score(column(&[x]), x0, &level));
        let h = 1e-5;
        let expected = (log_density(x + h) - log_density(x - h)) / (2.0 * h);
        assert_near(&found, &[expected], 1e-4);
    }
}

/// Guidance at scale 1 is the conditional prediction; at scale s it is `u + s (c − u)`.
#[test]
fn guidance_combines_the_two_branches() {
    /// Returns `x_t · c` for a condition of one number.
    struct Scaled;
    impl Denoiser for Scaled {
        type Condition = Tensor<2>;
        fn denoise(&self, x_t: Tensor<4>, _: &dmd_core::NoiseLevel, c: &Tensor<2>) -> Tensor<4> {
            let [batch, _] = c.dims();
            x_t * c.clone().reshape([batch, 1, 1, 1])
        }
    }
    let level = level(&[1.0, 1.0], &[1.0, 1.0]);
    let x = column(&[2.0, 3.0]);
    let condition = row(&[5.0, 7.0]).reshape([2, 1]);
    let nothing = row(&[1.0]).reshape([1, 1]);
    let guided =
        |scale| numbers(Guided::new(Scaled, nothing.clone(), scale).denoise(x.clone(), &level, &condition));
    assert_near(&guided(1.0), &[10.0, 21.0], 1e-7);
    // 2 + 3 (10 − 2) = 26, 3 + 3 (21 − 3) = 57
    assert_near(&guided(3.0), &[26.0, 57.0], 1e-6);
}
