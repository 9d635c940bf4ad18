//! The whole method on one page: an exact teacher, a small generator, a small fake score.
//!
//! `cargo run --release --example distill_mixture` takes under a minute on a CPU, prints the moments
//! before and after, and writes `distill_mixture.png`: data, generator before, generator after.

use anyhow::ensure;
use dmd::core::{Distiller, FewStep, GaussianMixture, Level, Noise, TimeSampler};
use dmd::device;
use dmd::scheduler::{KarrasSchedule, heun};
use dmd::train::{Batch, LearningRate, Regression, Trainer, TrainerConfig, Turn};
use dmd_ablations::toy::{Agreement, Mlp, points, scatter};

const STEPS: usize = 4000;
const BATCH: usize = 256;
const PAIRS: usize = 4096;
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
    let pairs_z = noise.normal([PAIRS, 2, 1, 1], &device);
    let pairs_x = heun::sample(&teacher, &schedule, 32, pairs_z.clone() * top, &());

    let network = || Mlp::new(128, 0.5, &device.clone().autodiff());
    let generator = FewStep::new(network(), vec![Level::of_sigma(top)]).with_noise_scale(top);
    let distiller = Distiller::new(generator, teacher.clone(), network(), schedule);
    let sigmas = schedule.sigmas(1000);
    let (matching, all) = (TimeSampler::Grid(sigmas[20..=980].to_vec()), TimeSampler::Grid(sigmas));
    let rate = LearningRate::cosine(2e-3, 100, STEPS);
    let config = TrainerConfig {
        generator_rate: rate,
        fake_rate: rate,
        fake_updates: 1,
        regression: Regression { weight: 1.0, warmup_steps: STEPS / 6, ..Regression::default() },
        ..TrainerConfig::new([BATCH, 2, 1, 1], matching, all)
    };
    let mut trainer = Trainer::new(config, distiller, noise, &device);
    let z_test = Noise::from_seed(2).normal([SAMPLES, 2, 1, 1], &device);
    let draw_samples = |generator: &FewStep<Mlp>| points(generator.first(z_test.clone(), &()));
    let before = draw_samples(&trainer.generator());

    for _ in 0..STEPS {
        // Nothing to condition on; half of each batch of the generator has pairs.
        trainer.step(|turn, noise| {
            let half = BATCH / 2;
            let first = noise.below(PAIRS - half);
            let rows = |all: &burn::tensor::Tensor<4>| all.clone().narrow(0, first, half);
            Ok(match turn {
                Turn::Generator => Batch::new(()).with_pairs(rows(&pairs_z), rows(&pairs_x)),
                Turn::Fake => Batch::new(()),
            })
        })?;
    }

    let after = draw_samples(&trainer.generator());
    let data = points(teacher.sample(SAMPLES, &mut Noise::from_seed(3), &device));
    dmd::data::save(&scatter(&[&data, &before, &after], 1.2), "distill_mixture.png".as_ref())?;
    println!("data | generator before | after: distill_mixture.png");
    println!("before\n{}", Agreement::of(&before, &teacher));
    let agreement = Agreement::of(&after, &teacher);
    println!("after\n{agreement}");
    ensure!(agreement.holds(), "a mode or a moment is off");
    Ok(())
}
