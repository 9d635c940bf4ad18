//! The whole method on one page: an exact teacher, a small generator, a small fake score.
//!
//! `cargo run --release --example distill_mixture` takes under a minute on a CPU, prints the moments
//! before and after, and writes `distill_mixture.png`: data, generator before, generator after.

use anyhow::ensure;
use burn::{optim::GradientsParams, tensor::Tensor};
use dmd::core::matching::Weighting;
use dmd::core::{
    Diffusion, Distiller, Draw, FewStep, GaussianMixture, Level, Noise, SquaredError, Targets, Terms,
};
use dmd::device;
use dmd::scheduler::{KarrasSchedule, TimeSampler, heun};
use dmd::train::{AdamW, AdamWConfig, LearningRate};
use dmd_ablations::toy::{Agreement, Mlp, points, scatter};

const STEPS: usize = 4000;
const BATCH: usize = 256;
const SAMPLES: usize = 2000;

fn main() -> anyhow::Result<()> {
    let device = device::open("flex")?;
    let schedule = KarrasSchedule::default();
    let (mut noise, top) = (Noise::from_seed(1), schedule.sigma_max);
    // Five modes on a ring, of different weight and width.
    let teacher = GaussianMixture::new(&[
        (1.0, &[0.70, 0.00], 0.06),
        (1.2, &[0.22, 0.67], 0.07),
        (1.4, &[-0.57, 0.41], 0.08),
        (1.6, &[-0.57, -0.41], 0.09),
        (1.8, &[0.22, -0.67], 0.10),
    ]);

    // DMD's pairs: noise, and what the teacher's deterministic sampler makes of it.
    let pairs_z = noise.normal([4096, 2, 1, 1], &device);
    let pairs_x = heun::sample(&teacher, &schedule, 32, pairs_z.clone() * top, &());

    let mlp = |_| Mlp::new(128, 0.5, &device.clone().autodiff());
    let generator = FewStep::new(mlp("generator"), vec![Level::of_sigma(top)]).with_noise_scale(top);
    let mut d = Distiller::new(generator, teacher, mlp("fake"), schedule);
    let sigmas = schedule.sigmas(1000);
    let (most, all) = (TimeSampler::Grid(sigmas[20..=980].to_vec()), TimeSampler::Grid(sigmas));
    let (mut generator_adam, mut fake_adam) =
        (AdamW::new(AdamWConfig::default()), AdamW::new(AdamWConfig::default()));
    let rate = LearningRate::cosine(2e-3, 100, STEPS);
    let z_test = Noise::from_seed(2).normal([SAMPLES, 2, 1, 1], &device);
    let draw_samples =
        |generator: &FewStep<Mlp>| points(generator.first(z_test.clone(), &()).without_autodiff());
    let before = draw_samples(&d.generator);

    for step in 0..STEPS {
        let mut draw = Draw::new(&mut noise, [BATCH, 2, 1, 1], &most, &device);
        let first = noise.below(4096 - BATCH / 2);
        let half = BATCH / 2;
        draw.z = Tensor::cat(vec![pairs_z.clone().narrow(0, first, half), draw.z.narrow(0, 0, half)], 0);
        let targets =
            Targets { x0: pairs_x.clone().narrow(0, first, half), weight: 1.0, distance: &SquaredError };
        let matching = (step >= STEPS / 6).then_some(Weighting::Normalised); // regression alone first
        let loss = d.generator_loss(&draw, &Terms { matching, targets: Some(targets), adversary: None }, &());
        let grads = GradientsParams::from_module(&mut loss.total.backward(), &d.generator);
        (d.generator, _) = generator_adam.step(rate.at(step), d.generator, grads);
        let diffusion = Diffusion::new(&mut noise, [BATCH, 2, 1, 1], &all, &device);
        let grads =
            GradientsParams::from_module(&mut d.fake_loss(loss.x, &diffusion, &()).backward(), &d.fake);
        (d.fake, _) = fake_adam.step(rate.at(step), d.fake, grads);
    }

    let after = draw_samples(&d.generator);
    let data = points(d.teacher.sample(SAMPLES, &mut noise, &device));
    dmd::data::save(&scatter(&[&data, &before, &after], 1.2), "distill_mixture.png".as_ref())?;
    println!("data | generator before | after: distill_mixture.png");
    println!("before\n{}", Agreement::of(&before, &d.teacher));
    let agreement = Agreement::of(&after, &d.teacher);
    println!("after\n{agreement}");
    ensure!(agreement.holds(), "a mode or a moment is off");
    Ok(())
}
