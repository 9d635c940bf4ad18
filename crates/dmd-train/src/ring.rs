//! The losses of DMD and DMD2 side by side on a ring of eight Gaussians: the papers' ablations in the
//! small, with a trained teacher, in seconds per row.
//!
//! Teacher, fake score and generator are the same small network ([`Mlp`]) with EDM's preconditioning; a
//! generator is called once, at sigma 80.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use dmd_core::matching::Weighting;
use dmd_core::{Denoiser, FakeScore, GaussianMixture, Noise, NoiseSchedule, OneStep, denoising};
use dmd_scheduler::{KarrasSchedule, TimeSampler, heun};

use crate::toy::{Mlp, points};
use crate::{AdamW, AdamWConfig, Diffusion, Distiller, Draw, LearningRate, Reals, Targets, Terms};

/// Number of modes.
const MODES: usize = 8;
/// Deviation of a mode.
const STD: f64 = 0.05;
/// Width of the networks' hidden layers.
const WIDTH: usize = 96;
/// Samples per update.
const BATCH: usize = 256;
/// Samples that are measured.
const MEASURED: usize = 2000;
/// Pairs of the regression.
const PAIRS: usize = 2000;
/// Updates between two looks at the batch mean.
const LOOK: usize = 25;
/// Times of a matching term: 2 % to 98 % of a thousand.
const MATCHED: std::ops::RangeInclusive<usize> = 20..=980;

/// The data: eight modes of deviation 0.05 on a circle of radius 0.7071.
pub fn data() -> GaussianMixture {
    let places: Vec<[f64; 2]> = (0..MODES)
        .map(|i| {
            let angle = std::f64::consts::TAU * i as f64 / MODES as f64;
            [0.5_f64.sqrt() * angle.cos(), 0.5_f64.sqrt() * angle.sin()]
        })
        .collect();
    let modes: Vec<(f64, &[f64], f64)> = places.iter().map(|place| (1.0, &place[..], STD)).collect();
    GaussianMixture::new(&modes)
}

/// Weight of the critic's side beside the fake score's loss (DMD2: 1e-2).
const CRITIC: f64 = 1e-2;

/// What a generator is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    /// Its name in a table.
    pub name: &'static str,
    /// The matching term's weighting, if it is there.
    pub matching: Option<Weighting>,
    /// Weight of the regression to the teacher's samples; 0 is none.
    pub regression: f64,
    /// Weight of the adversarial term; 0 is none.
    pub adversarial: f64,
    /// Fake updates per generator update.
    pub ratio: usize,
    /// Learning rate of the fake score over the generator's.
    pub fake_rate: f64,
}

impl Variant {
    const DMD2: Self = Self {
        name: "two time scales, ratio 5",
        matching: Some(Weighting::Normalised),
        regression: 0.0,
        adversarial: 0.0,
        ratio: 5,
        fake_rate: 1.0,
    };

    /// The rows of the papers' tables.
    pub fn all() -> Vec<Self> {
        let base = Self::DMD2;
        let one = Self { ratio: 1, ..base };
        vec![
            Self { name: "regression only", matching: None, regression: 1.0, ..one },
            Self { name: "matching only, ratio 1", ..one },
            Self { name: "DMD: matching and regression", regression: 1.0, ..one },
            Self { name: "matching only, ratio 1, fake rate × 5", fake_rate: 5.0, ..one },
            base,
            Self { name: "two time scales, ratio 10", ratio: 10, ..base },
            Self { name: "ratio 5, weight sigma / alpha", matching: Some(Weighting::SigmaOverAlpha), ..base },
            Self {
                name: "ratio 5, weight sigma³ / alpha",
                matching: Some(Weighting::SigmaCubedOverAlpha),
                ..base
            },
            Self { name: "ratio 5 and regression", regression: 1.0, ..base },
            Self { name: "DMD2: ratio 5 and adversarial", adversarial: 0.1, ..base },
            Self { name: "adversarial only, ratio 5", matching: None, adversarial: 1.0, ..base },
        ]
    }
}

/// How good samples are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Modes that receive at least a tenth of their share.
    pub modes: usize,
    /// Share of samples within 4 deviations of a mode.
    pub sharp: f64,
    /// Energy distance to the data, times 1000.
    pub energy: f64,
    /// Mean change of the batch mean between two looks, times 1000: the brightness curve's unrest.
    pub jitter: f64,
}

impl Figures {
    /// Measures points against fresh data.
    pub fn of(found: &[[f64; 2]], jitter: f64, device: &Device) -> Self {
        let exact = data();
        let real = points(exact.sample(found.len(), &mut Noise::from_seed(77), device));
        let nearest = |p: &[f64; 2]| {
            let apart = |mode: &Vec<f64>| (p[0] - mode[0]).hypot(p[1] - mode[1]);
            let all = exact.means().iter().map(apart).enumerate();
            all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY))
        };
        let mut shares = [0_usize; MODES];
        let mut sharp = 0;
        for (mode, apart) in found.iter().map(nearest) {
            if apart < 4.0 * STD {
                shares[mode] += 1;
                sharp += 1;
            }
        }
        let enough = found.len() / MODES / 10;
        Self {
            modes: shares.iter().filter(|share| **share >= enough).count(),
            sharp: sharp as f64 / found.len() as f64,
            energy: 1e3
                * (2.0 * mean_distance(found, &real)
                    - mean_distance(found, found)
                    - mean_distance(&real, &real)),
            jitter,
        }
    }
}

fn mean_distance(a: &[[f64; 2]], b: &[[f64; 2]]) -> f64 {
    let sum: f64 = a.iter().map(|p| b.iter().map(|q| (p[0] - q[0]).hypot(p[1] - q[1])).sum::<f64>()).sum();
    sum / (a.len() * b.len()) as f64
}

/// A teacher of the ring: EDM's loss and times, Adam with a cosine from 2e-3.
pub fn teacher(seed: u64, steps: usize, device: &Device) -> Mlp {
    let mut network = Mlp::new(WIDTH, 0.5, &device.clone().autodiff());
    let mut adam = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let (mut noise, schedule, exact) = (Noise::stream(seed, "teacher"), KarrasSchedule::default(), data());
    let grid = TimeSampler::Grid(schedule.sigmas(1000));
    let rate = LearningRate::cosine(2e-3, 100, steps);
    let batch = 2 * BATCH;
    for step in 0..steps {
        let x0 = exact.sample(batch, &mut noise, device);
        // Three of four steps at the levels that matter (EDM, table 1), the fourth over the grid.
        let t = match step % 4 {
            3 => grid.draw(batch, &mut noise, device),
            _ => (noise.normal([batch], device) * 1.2 - 1.2).exp(),
        };
        let level = schedule.level(t);
        let x_t = level.add_noise(x0.clone(), noise.normal([batch, 2, 1, 1], device));
        let x0_hat = network.denoise(x_t, &level, &());
        let loss = denoising::loss(x0_hat, x0, network.loss_weight(&level));
        let grads = GradientsParams::from_module(&mut loss.backward(), &network);
        (network, _) = adam.step(rate.at(step), network, grads);
    }
    network
}

/// The teacher's own samples, 18 steps of Heun.
pub fn teacher_figures(teacher: &Mlp, device: &Device) -> Figures {
    let schedule = KarrasSchedule::default();
    let z = Noise::from_seed(5).normal([MEASURED, 2, 1, 1], device);
    let x = heun::sample(&teacher.valid(), &schedule, 18, z * schedule.sigma_max, &());
    Figures::of(&points(x), 0.0, device)
}

/// Distils a teacher with a variant of the losses for `updates` generator updates.
pub fn distil(teacher: &Mlp, variant: &Variant, seed: u64, updates: usize, device: &Device) -> Figures {
    let (schedule, exact) = (KarrasSchedule::default(), data());
    let mut noise = Noise::stream(seed, "ring");
    let shape = [BATCH, 2, 1, 1];
    let plain = teacher.valid();
    let pairs_z = noise.normal([PAIRS, 2, 1, 1], device);
    let pairs_x = heun::sample(&plain, &schedule, 18, pairs_z.clone() * schedule.sigma_max, &());
    let fake = match variant.adversarial > 0.0 {
        true => teacher.clone().with_critic(&device.clone().autodiff()),
        false => teacher.clone(),
    };
    let top = schedule.sigma_max;
    let generator = OneStep::new(teacher.clone(), top, 1.0, top, top);
    let mut d = Distiller { generator, teacher: plain, fake, schedule };
    let sigmas = schedule.sigmas(1000);
    let (matched, all) = (TimeSampler::Grid(sigmas[MATCHED].to_vec()), TimeSampler::Grid(sigmas));
    let adam = || AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let (mut generator_adam, mut fake_adam) = (adam(), adam());
    let rate = LearningRate::constant(3e-4, 100);
    let (mut looks, mut last): (Vec<f64>, Option<[f64; 2]>) = (Vec::new(), None);
    for update in 0..updates {
        let mut draw = Draw::new(&mut noise, shape, &matched, device);
        let mut targets = None;
        if variant.regression > 0.0 {
            let first = noise.below(PAIRS - BATCH);
            draw.z = pairs_z.clone().narrow(0, first, BATCH);
            targets =
                Some(Targets { x0: pairs_x.clone().narrow(0, first, BATCH), weight: variant.regression });
        }
        let diffusion = Diffusion::new(&mut noise, shape, &all, device);
        let terms = Terms {
            matching: variant.matching,
            targets: targets.as_ref(),
            adversary: (variant.adversarial > 0.0).then_some((&diffusion, variant.adversarial)),
        };
        let loss = d.generator_loss_of(&draw, &terms, &());
        let grads = GradientsParams::from_module(&mut loss.total.backward(), &d.generator);
        (d.generator, _) = generator_adam.step(rate.at(update), d.generator, grads);
        if update % LOOK == 0 {
            let mean: Vec<f64> = loss.x.clone().mean_dim(0).into_data().iter::<f64>().collect();
            if let Some([x, y]) = last {
                looks.push(((mean[0] - x).abs() + (mean[1] - y).abs()) / 2.0);
            }
            last = Some([mean[0], mean[1]]);
        }
        let mut x = loss.x;
        for turn in 0..variant.ratio {
            if turn > 0 {
                let z = noise.normal(shape, device);
                x = OneStep::new(d.generator.denoiser.valid(), top, 1.0, top, top).generate(z, &());
            }
            let draw = Draw::new(&mut noise, shape, &all, device);
            let mut loss = d.fake_loss(x.clone(), &draw, &());
            if variant.adversarial > 0.0 {
                let diffuse = |noise: &mut Noise| Diffusion::new(noise, shape, &all, device);
                let x0 = exact.sample(BATCH, &mut noise, device);
                let reals = Reals { x0, condition: (), diffusion: diffuse(&mut noise) };
                if let Some(critic) = d.critic_loss(x.clone(), &diffuse(&mut noise), &(), &reals) {
                    loss = loss + critic * CRITIC;
                }
            }
            let grads = GradientsParams::from_module(&mut loss.backward(), &d.fake);
            (d.fake, _) = fake_adam.step(rate.at(update) * variant.fake_rate, d.fake, grads);
        }
    }
    let z = Noise::from_seed(5).normal([MEASURED, 2, 1, 1], device);
    let x = OneStep::new(d.generator.denoiser.valid(), top, 1.0, top, top).generate(z, &());
    let jitter = 1e3 * looks.iter().sum::<f64>() / looks.len().max(1) as f64;
    Figures::of(&points(x), jitter, device)
}
