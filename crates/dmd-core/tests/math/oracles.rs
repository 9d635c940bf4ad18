//! Pointwise values worked out by hand in f64: real = 0.3·N(−1, 0.2²) + 0.7·N(0.8, 0.4²),
//! fake = N(0.1, 0.5²), x = 0.25, n = 0.5.

use dmd_core::{Denoiser, GaussianMixture, Prediction, adversarial, denoising, matching, regression, score};

use crate::{assert_near, column, level, numbers, row};

fn real() -> GaussianMixture {
    GaussianMixture::new(&[(0.3, &[-1.0], 0.2), (0.7, &[0.8], 0.4)])
}

fn fake() -> GaussianMixture {
    GaussianMixture::new(&[(1.0, &[0.1], 0.5)])
}

/// √ᾱ and √(1−ᾱ) of Stable Diffusion's timestep 499 (ᾱ = 0.277 669 65).
const VP_499: (f64, f64) = (0.526_943_7, 0.849_900_2);

/// alpha, sigma, x_t, real, fake, gradient.
const CASES: [(f64, f64, f64, f64, f64, f64); 5] = [
    (1.0, 0.05, 0.275, 0.283_076_922, 0.273_267_327, -0.296_569_175),
    (1.0, 0.5, 0.5, 0.665_781_705, 0.3, -0.879_744_589),
    (1.0, 2.0, 1.25, 0.472_049_920, 0.167_647_059, -1.370_875_797),
    (1.0, 20.0, 10.25, 0.280_402_869, 0.106_339_788, -5.725_218_941),
    (VP_499.0, VP_499.1, 0.556_686_022, 0.518_624_446, 0.183_857_269, -1.246_227_520),
];

#[test]
fn mixture_denoiser_and_matching_gradient() {
    for (alpha, sigma, x_t, mu_real, mu_fake, gradient) in CASES {
        let level = level(&[alpha], &[sigma]);
        let diffused = level.add_noise(column(&[0.25]), column(&[0.5]));
        assert_near(&numbers(diffused.clone()), &[x_t], 1e-6);
        let real = real().denoise(diffused.clone(), &level, &());
        let fake = fake().denoise(diffused, &level, &());
        assert_near(&numbers(real.clone()), &[mu_real], 3e-6);
        assert_near(&numbers(fake.clone()), &[mu_fake], 3e-6);
        // The denominator is a small difference of f32 numbers: 1e-6 / 0.03.
        assert_near(&numbers(matching::gradient(column(&[0.25]), real, fake)), &[gradient], 1e-4);
    }
}

#[test]
fn scores_by_tweedie() {
    for (sigma, x_t, expected_real, expected_fake) in [
        (0.05, 0.275, 3.230_768_9, -0.693_069_3),
        (0.5, 0.5, 0.663_126_8, -0.8),
        (2.0, 1.25, -0.194_487_5, -0.270_588_2),
        (20.0, 10.25, -0.024_924_0, -0.025_359_2),
    ] {
        let level = level(&[1.0], &[sigma]);
        let of = |mixture: GaussianMixture| {
            numbers(score(column(&[x_t]), mixture.denoise(column(&[x_t]), &level, &()), &level))
        };
        // f32 rounding of x_t, divided by sigma²: 6e-8 / 0.0025.
        assert_near(&of(real()), &[expected_real], 2e-4);
        assert_near(&of(fake()), &[expected_fake], 2e-4);
    }
}

#[test]
fn one_x0_in_every_parameterisation() {
    let level = level(&[VP_499.0], &[VP_499.1]);
    let (x_t, x0) = (column(&[0.556_686_022]), column(&[0.518_624_446]));
    for (prediction, expected) in [
        (Prediction::Epsilon, 0.333_451_085),
        (Prediction::Velocity, -0.265_069_076),
        (Prediction::Sample, 0.518_624_446),
    ] {
        let output = prediction.from_x0(x0.clone(), x_t.clone(), &level);
        assert_near(&numbers(output.clone()), &[expected], 1e-5);
        assert_near(&numbers(prediction.to_x0(output, x_t.clone(), &level)), &[0.518_624_446], 1e-6);
    }
}

#[test]
fn reduction_and_surrogate_over_four_components() {
    let sample = |v: [f64; 4]| row(&v).reshape([1, 4, 1, 1]);
    let x = sample([0.25, -0.5, 1.0, 0.0]);
    let gradient =
        matching::gradient(x.clone(), sample([0.2, -0.1, 0.4, 0.5]), sample([0.1, -0.3, 0.9, 0.2]));
    let expected = [-0.258_064_52, -0.516_129_03, 1.290_322_58, -0.774_193_55];
    assert_near(&numbers(gradient.clone()), &expected, 1e-6);
    assert_near(&numbers(matching::surrogate_loss(x, gradient)), &[0.324_661_81], 1e-6);
}

/// EDM's preconditioning table (sigma_data 0.5).
#[test]
fn karras_preconditioning() {
    for (sigma, c_skip, c_out, c_in, weight) in [
        (0.002, 0.999_984, 0.001_999_984, 1.999_984, 250_004.0),
        (0.5, 0.5, 0.353_553_391, std::f64::consts::SQRT_2, 8.0),
        (2.526_506_7, 0.037_688_994_6, 0.490_487_259, 0.388_273_072, 4.156_660_35),
        (80.0, 3.906_097_42e-5, 0.499_990_235, 0.012_499_755_9, 4.000_156_25),
    ] {
        let prediction = Prediction::Karras { sigma_data: 0.5 };
        let level = level(&[1.0], &[sigma]);
        let scalings = prediction.scalings(&level);
        assert_near(&numbers(scalings.c_skip), &[c_skip], 1e-6);
        assert_near(&numbers(scalings.c_out), &[c_out], 1e-6);
        assert_near(&numbers(scalings.c_in), &[c_in], 1e-6);
        let found = numbers(prediction.loss_weight(&level))[0];
        assert!((found / weight - 1.0).abs() < 1e-5, "{found} against {weight}");
    }
}

/// `1 / c_out²`: SNR for epsilon, `1/σ²` for velocity, `(α+σ)²/σ²` for flow.
#[test]
fn loss_weights() {
    let level = level(&[0.6], &[0.8]);
    for (prediction, weight) in [
        (Prediction::Epsilon, 0.5625),
        (Prediction::Sample, 1.0),
        (Prediction::Velocity, 1.5625),
        (Prediction::Flow, 3.0625),
    ] {
        assert_near(&numbers(prediction.loss_weight(&level)), &[weight], 1e-6);
    }
    assert_near(&numbers(level.snr()), &[0.5625], 1e-6);
}

/// With its weight, the x0 error is the error of the network's own output.
#[test]
fn weighted_x0_error_is_the_epsilon_error() {
    let level = level(&[0.9, 0.3], &[0.435_889_9, 0.953_939_2]);
    let (x0, eps) = (column(&[0.7, -0.2]), column(&[0.1, 1.3]));
    let guess = column(&[0.4, 0.9]);
    let x_t = level.add_noise(x0.clone(), eps.clone());
    let x0_hat = Prediction::Epsilon.to_x0(guess.clone(), x_t, &level);
    let found = denoising::loss(x0_hat, x0, Prediction::Epsilon.loss_weight(&level));
    // ((0.4 − 0.1)² + (0.9 − 1.3)²) / 2 = 0.125
    assert_near(&numbers(found), &[0.125], 1e-5);
    assert_near(&numbers(regression::loss(guess, eps)), &[0.125], 1e-6);
}

#[test]
fn pseudo_huber_is_a_square_near_and_a_size_far() {
    let measure = |error: f64, c| numbers(regression::pseudo_huber(column(&[error]), column(&[0.0]), c));
    assert_near(&measure(0.3, 0.4), &[0.1], 1e-6);
    // e² / 2c, and |e| − c.
    assert_near(&measure(0.01, 1.0), &[5e-5], 1e-7);
    assert_near(&measure(-100.0, 0.1), &[99.9], 1e-3);
}

#[test]
fn adversarial_losses_at_zero_and_far_out() {
    let logits = |v: f64| row(&[v, v]).reshape([2, 1]);
    let ln2 = std::f64::consts::LN_2;
    assert_near(&numbers(adversarial::generator_loss(logits(0.0))), &[ln2], 1e-6);
    assert_near(&numbers(adversarial::critic_loss(logits(0.0), logits(0.0))), &[2.0 * ln2], 1e-6);
    assert_near(&numbers(adversarial::critic_loss(logits(40.0), logits(-40.0))), &[0.0], 1e-6);
}
