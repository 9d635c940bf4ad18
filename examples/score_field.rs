//! What distribution matching sees: the scores of the teacher and of the fake score, and the step between them, on a grid
//! of the plane, before and after a short distillation.
//!
//! `cargo run --release --example score_field` writes `score-field.svg` in some seconds. Above, the fake score knows the
//! untrained generator's samples (dots), and the step moves them to the teacher's three modes. Below, both scores agree.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use dmd::core::matching::Weighting;
use dmd::core::{Denoiser, Distiller, FewStep, GaussianMixture, Level, Noise, TimeSampler, score};
use dmd::scheduler::KarrasSchedule;
use dmd::train::{Batch, LearningRate, Trainer, TrainerConfig};
use dmd_ablations::toy::{Mlp, field, grid, points};
use plotters::prelude::*;

type Toy = Distiller<Mlp, GaussianMixture, Mlp, KarrasSchedule>;

/// The same distillation after some steps, in which the generator learns at a rate.
fn trained(distiller: Toy, steps: usize, rate: f64, device: &Device) -> anyhow::Result<Toy> {
    let sigmas = distiller.schedule.sigmas(1000);
    let (matching, all) = (TimeSampler::Grid(sigmas[20..=980].to_vec()), TimeSampler::Grid(sigmas));
    let config = TrainerConfig {
        generator_rate: LearningRate::cosine(rate, 100, steps),
        fake_rate: LearningRate::cosine(2e-3, 10, steps),
        fake_updates: 3,
        ..TrainerConfig::new([128, 2, 1, 1], matching, all)
    };
    let mut trainer = Trainer::new(config, distiller, Noise::from_seed(1), device);
    for _ in 0..steps {
        trainer.step(|_, _| Ok(Batch::new(())))?;
    }
    Ok(trainer.distiller().fork())
}

/// Teacher's score, fake score and the samples' step `−sigma · (s_fake − s_real)`, at points of the plane.
fn fields(distiller: &Toy, x: &Tensor<4>) -> [Vec<[f64; 2]>; 3] {
    let level = Level::of_sigma(0.25).like(x);
    let real_x0 = distiller.teacher.denoise(x.clone(), &level, &());
    let fake_x0 = distiller.fake.valid().denoise(x.clone(), &level, &());
    let [real, fake] = [&real_x0, &fake_x0].map(|x0| score(x.clone(), x0.clone(), &level));
    let step = -Weighting::SigmaOverAlpha.gradient(x.clone(), real_x0, fake_x0, &level);
    [real, fake, step].map(points)
}

fn main() -> anyhow::Result<()> {
    let device = dmd::device::open("flex")?;
    let modes: [(f64, &[f64], f64); 3] =
        [(1.0, &[0.8, 0.1], 0.1), (1.0, &[-0.4, 0.6], 0.1), (1.0, &[-0.2, -0.7], 0.1)];
    let network = || Mlp::new(64, 0.5, &device.clone().autodiff());
    let generator = FewStep::new(network(), vec![Level::of_sigma(1.0)]);
    let distiller =
        Distiller::new(generator, GaussianMixture::new(&modes), network(), KarrasSchedule::default());
    // The generator stands still while the fake score learns its samples.
    let before = trained(distiller, 100, 0.0, &device)?;
    let after = trained(before.fork(), 2000, 2e-3, &device)?;

    let grid = grid(14, 1.2);
    let flat: Vec<f32> = grid.iter().flatten().map(|v| *v as f32).collect();
    let plane = Tensor::from_data(TensorData::new(flat, [grid.len(), 2, 1, 1]), &device);
    let root = SVGBackend::new("score-field.svg", (900, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut steps = Vec::new();
    let names = [("teacher's score", 12.0), ("fake score", 12.0), ("the step of the samples", 0.4)];
    let z = Noise::from_seed(2).normal([150, 2, 1, 1], &device);
    let rows = [("before", &before), ("after", &after)];
    for (areas, (when, distiller)) in root.split_evenly((2, 3)).chunks(3).zip(rows) {
        let samples = distiller.generator.plain().first(z.clone(), &());
        for ((area, (name, longest)), values) in areas.iter().zip(names).zip(fields(distiller, &plane)) {
            let arrows: Vec<_> = grid.iter().copied().zip(values).collect();
            field(area, &format!("{name}, {when}"), longest, &arrows, &points(samples.clone()))?;
        }
        let [_, _, step] = fields(distiller, &samples);
        steps.push(step.iter().map(|[u, v]| u.hypot(*v) / 150.0).sum::<f64>());
    }
    root.present()?;
    println!("mean step of a sample: {:.3} before, {:.3} after; wrote score-field.svg", steps[0], steps[1]);
    anyhow::ensure!(steps[1] < steps[0] / 2.0, "the distillation left more than half of the step");
    Ok(())
}
