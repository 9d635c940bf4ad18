//! Published tables of the schedules, and the samplers on data whose solution is known.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::{Denoiser, FewStep, GaussianMixture, Level, Noise, NoiseLevel, NoiseSchedule};
use dmd_scheduler::{
    BetaSchedule, DiscreteSchedule, KarrasSchedule, Sampler, SchedulerConfig, Spacing, TimeSampler, heun,
};
use proptest::prelude::*;

fn point(x: f64) -> Tensor<4> {
    Tensor::from_data(TensorData::new(vec![x as f32], [1, 1, 1, 1]), &Device::flex())
}

fn number(x: Tensor<4>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}

/// Stable Diffusion's table: t, ᾱ, √ᾱ, √(1−ᾱ).
#[test]
fn stable_diffusion_table() {
    let schedule = DiscreteSchedule::stable_diffusion();
    for (t, product, alpha, sigma) in [
        (0, 0.999_15, 0.999_575, 0.029_155),
        (19, 0.982_243_99, 0.991_082, 0.133_252),
        (20, 0.981_314_36, 0.990_613, 0.136_695),
        (249, 0.675_432_41, 0.821_847, 0.569_708),
        (399, 0.426_086_36, 0.652_753, 0.757_571),
        (499, 0.277_669_65, 0.526_944, 0.849_900),
        (749, 0.056_623_49, 0.237_957, 0.971_276),
        (979, 0.005_912_77, 0.076_895, 0.997_039),
        (980, 0.005_843_78, 0.076_445, 0.997_074),
        (999, 0.004_660_1, 0.068_265, 0.997_667),
    ] {
        assert!((schedule.alpha_cumprod(t) - product).abs() < 1e-7, "ᾱ at {t}");
        let (a, s) = schedule.alpha_sigma(t);
        assert!((a - alpha).abs() < 1e-6 && (s - sigma).abs() < 1e-6, "t = {t}: {a}, {s}");
    }
    // The amplification of an epsilon error at t = 999.
    assert!((1.0 / schedule.alpha_sigma(999).0 - 14.648_814).abs() < 1e-3);
}

/// The Karras grid of DMD: index, sigma.
#[test]
fn karras_table() {
    let sigmas = KarrasSchedule::default().sigmas(1000);
    for (i, sigma) in [
        (0, 0.002),
        (10, 0.002_553),
        (20, 0.003_232),
        (50, 0.006_272),
        (100, 0.016_751),
        (200, 0.085_335),
        (250, 0.170_312),
        (300, 0.319_434),
        (400, 0.969_39),
        (500, 2.526_507),
        (600, 5.866_832),
        (700, 12.443_542),
        (750, 17.617_269),
        (800, 24.535_057),
        (900, 45.556_015),
        (950, 60.884_993),
        (980, 72.053_899),
        (998, 79.563_825),
        (999, 80.0),
    ] {
        assert!((sigmas[i] - sigma).abs() < 1e-6_f64.max(1e-6 * sigma), "index {i}: {}", sigmas[i]);
    }
    let mut heun = KarrasSchedule::default().sigmas(18);
    heun.reverse();
    for (found, expected) in heun.iter().zip([80.0, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.4009]) {
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
}

/// Real data N(0.3, 0.4²).
fn gaussian() -> GaussianMixture {
    GaussianMixture::new(&[(1.0, &[0.3], 0.4)])
}

#[test]
fn heun_pairs_of_a_gaussian() {
    let schedule = KarrasSchedule::default();
    for (z, expected) in [
        (1.0, [(10, 0.791_135_965), (18, 0.722_065_145), (32, 0.705_174_982), (64, 0.700_050_714)]),
        (-0.5, [(10, 0.051_658_979), (18, 0.086_584_375), (32, 0.095_124_821), (64, 0.097_715_888)]),
    ] {
        for (steps, expected) in expected {
            let x = number(heun::sample(&gaussian(), &schedule, steps, point(80.0 * z), &()));
            // f32 along up to 127 calls from 80.
            assert!((x - expected).abs() < 5e-5, "z {z}, {steps} steps: {x}, expected {expected}");
        }
    }
}

/// Heun is of second order in the number of steps, on the exact solution.
#[test]
fn heun_is_of_second_order() {
    let exact = 0.698_495_019;
    let error = |steps| {
        (number(heun::sample(&gaussian(), &KarrasSchedule::default(), steps, point(80.0), &())) - exact).abs()
    };
    let order = (error(16) / error(64)).log2() / 2.0;
    assert!((order - 2.0).abs() < 0.3, "order {order}");
}

#[test]
fn pndm_pairs_of_a_gaussian() {
    let config = SchedulerConfig::stable_diffusion().with_sampler(Sampler::Pndm).unwrap();
    let times = config.walk(50).unwrap().timesteps();
    assert_eq!(times.len(), 51);
    assert_eq!(times[..4], [981.0, 961.0, 961.0, 941.0]);
    assert_eq!(times[49..], [21.0, 1.0]);
    for (start, expected) in [(1.0, 0.690_965_478), (-0.5, 0.090_639_122)] {
        let mut calls = 0;
        let x = config.sample(&gaussian(), 50, point(start), &(), |_, _| {
            calls += 1;
            ControlFlow::Continue(())
        });
        let x = number(x.unwrap().unwrap());
        assert_eq!(calls, 51);
        assert!((x - expected).abs() < 5e-5, "from {start}: {x}, expected {expected}");
    }
}

/// DDIM is of first order: the error against the exact end (ᾱ of timestep 0) halves with the steps.
#[test]
fn ddim_is_of_first_order() {
    let config = SchedulerConfig::stable_diffusion().with_option("timestep_spacing", "trailing").unwrap();
    let walk = |steps| {
        number(
            config
                .sample(&gaussian(), steps, point(1.0), &(), |_, _| ControlFlow::Continue(()))
                .unwrap()
                .unwrap(),
        )
    };
    // The finest walk stands for the exact solution: its own error is a tenth of the one at 100.
    let exact = 2.0 * walk(1000) - walk(500);
    let order = ((walk(25) - exact).abs() / (walk(100) - exact).abs()).log2() / 2.0;
    assert!((order - 1.0).abs() < 0.3, "order {order}");
}

#[test]
fn breaking_off_returns_nothing() {
    let config = SchedulerConfig::stable_diffusion();
    let x = config.sample(&gaussian(), 10, point(1.0), &(), |step, _| {
        if step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(x.unwrap().is_none());
}

#[test]
fn levels_are_looked_up_on_the_device() {
    let schedule = DiscreteSchedule::stable_diffusion();
    let t = Tensor::<1>::from_floats([0.0, 499.0, 999.0], &Device::flex());
    let level = schedule.level(t);
    let alpha: Vec<f32> = level.alpha.into_data().iter::<f32>().collect();
    for (found, expected) in alpha.iter().zip([0.999_575, 0.526_944, 0.068_265]) {
        assert!((found - expected).abs() < 1e-6);
    }
    assert_eq!(schedule.domain(), 0.0..=999.0);
}

#[test]
fn times_stay_in_range() {
    let mut noise = Noise::from_seed(1);
    let times = TimeSampler::Timesteps(20..=980).draw(5000, &mut noise, &Device::flex());
    let times: Vec<f32> = times.into_data().iter::<f32>().collect();
    assert!(times.iter().all(|t| (20.0..=980.0).contains(t) && t.fract() == 0.0));
    // 5000 draws miss a given end with probability e^-5; both halves are hit 2500 ± 4·35 times.
    let low = times.iter().filter(|t| **t < 500.0).count();
    assert!((2360..=2640).contains(&low), "{low}");
}

proptest! {
    /// Variance preserving, and noise rises with time.
    #[test]
    fn variance_is_preserved(start in 1e-5_f64..1e-3, factor in 2.0_f64..20.0, scaled: bool) {
        let betas = if scaled { BetaSchedule::ScaledLinear } else { BetaSchedule::Linear };
        let schedule = DiscreteSchedule::new(betas, start, start * factor, 200);
        let mut before = 0.0;
        for t in 0..200 {
            let (alpha, sigma) = schedule.alpha_sigma(t);
            prop_assert!((alpha * alpha + sigma * sigma - 1.0).abs() < 1e-12);
            prop_assert!(sigma > before);
            before = sigma;
        }
    }

    /// Every spacing gives as many timesteps as asked, descending, inside the table.
    #[test]
    fn timesteps_descend(steps in 1usize..200) {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            let times = spacing.timesteps(steps, 1000, 1).unwrap();
            prop_assert_eq!(times.len(), steps);
            prop_assert!(times.windows(2).all(|w| w[0] > w[1]));
            prop_assert!(times.iter().all(|t| *t < 1000));
        }
    }
}

/// A network without parameters of its own.
#[derive(burn::module::Module, Debug)]
struct Exact {
    #[module(skip)]
    mixture: GaussianMixture,
}

impl Denoiser for Exact {
    type Condition = ();

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &()) -> Tensor<4> {
        self.mixture.denoise(x_t, level, condition)
    }
}

/// DMD2's loop of four steps on the exact Gaussian from z = 1 with given noises; worked out in f64.
#[test]
fn four_steps_of_a_gaussian() {
    let schedule = DiscreteSchedule::stable_diffusion();
    let level = |t: usize| {
        let (alpha, sigma) = schedule.alpha_sigma(t);
        Level { t: t as f64, alpha, sigma }
    };
    let exact = || Exact { mixture: gaussian() };
    let times = [999, 749, 499, 249];
    let expected = [0.310_740_746, 0.311_750_029, 0.281_990_179, 0.416_711_198];
    for (last, expected) in expected.into_iter().enumerate() {
        let levels = times[..=last].iter().map(|t| level(*t)).collect();
        let mut noises = [0.3, -0.2, 0.7].into_iter();
        let mut draw = || point(noises.next().unwrap());
        let x0 = number(FewStep::new(exact(), levels).generate(point(1.0), &(), &mut draw));
        assert!((x0 - expected).abs() < 1e-5, "{} steps: {x0}, expected {expected}", last + 1);
    }
    // One step at SDXL's timestep, on pure noise.
    let x0 = number(FewStep::new(exact(), vec![level(399)]).generate(point(1.0), &(), &mut || point(0.0)));
    assert!((x0 - 0.430_805_110).abs() < 1e-5, "{x0}");
}
