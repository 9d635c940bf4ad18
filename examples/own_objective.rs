//! An objective of your own is one `impl Objective`. This one bounds the values of DMD's gradient, so that a sample far from
//! the data does not outweigh the others. The trainer takes it like the objectives of the library.
//!
//! `cargo run --release --example own_objective` takes a few seconds on a CPU.

use anyhow::ensure;
use burn::tensor::Tensor;
use dmd::core::matching::{gradient, surrogate_loss};
use dmd::core::objective::{Lacks, Matched};
use dmd::core::{Distiller, FewStep, GaussianMixture, Level, Noise, Objective, TimeSampler};
use dmd::device;
use dmd::scheduler::KarrasSchedule;
use dmd::train::{Batch, LearningRate, Trainer, TrainerConfig};
use dmd_ablations::toy::{Agreement, Mlp, points};

const STEPS: usize = 1500;
const BATCH: usize = 256;

// ANCHOR: objective
/// DMD's gradient with values between `−bound` and `bound`.
#[derive(Debug)]
struct Bounded {
    bound: f64,
}

impl Objective for Bounded {
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
        let (x_t, level) = matched.diffused();
        let [real, fake] = matched.networks.both(x_t, &level);
        let gradient = gradient(matched.plain(), real, fake).clamp(-self.bound, self.bound);
        Ok(surrogate_loss(matched.x.clone(), gradient))
    }
}
// ANCHOR_END: objective

fn main() -> anyhow::Result<()> {
    let device = device::open("flex")?;
    let schedule = KarrasSchedule::default();
    let top = schedule.sigma_max;
    let teacher = GaussianMixture::new(&[(1.0, &[0.6, 0.2], 0.1), (2.0, &[-0.4, -0.3], 0.15)]);

    // ANCHOR: trainer
    let network = || Mlp::new(96, 0.5, &device.clone().autodiff());
    let generator = FewStep::new(network(), vec![Level::of_sigma(top)]).with_noise_scale(top);
    let distiller = Distiller::new(generator, teacher.clone(), network(), schedule);
    let sigmas = schedule.sigmas(1000);
    let (matching, all) = (TimeSampler::Grid(sigmas[20..=980].to_vec()), TimeSampler::Grid(sigmas));
    let rate = LearningRate::cosine(2e-3, 100, STEPS);
    let config = TrainerConfig {
        generator_rate: rate,
        fake_rate: rate,
        matching: Some(Box::new(Bounded { bound: 1.0 })),
        ..TrainerConfig::new([BATCH, 2, 1, 1], matching, all)
    };
    let mut trainer = Trainer::new(config, distiller, Noise::from_seed(1), &device);
    for _ in 0..STEPS {
        trainer.step(|_, _| Ok(Batch::new(())))?;
    }
    // ANCHOR_END: trainer

    let z = Noise::from_seed(2).normal([2000, 2, 1, 1], &device);
    let agreement = Agreement::of(&points(trainer.generator().first(z, &())), &teacher);
    println!("{agreement}");
    let kept = agreement.shares.iter().all(|(share, weight)| *share > weight / 2.0);
    ensure!(kept, "a mode has less than half of its share");
    Ok(())
}
