//! A training that stops and resumes: checkpoint, new process, and the same figures as without a stop.
//!
//! `cargo run --release --example train_tiny` distils a two-dimensional mixture into a tiny network twice: once in 40 steps,
//! and once in 20, a checkpoint in `train_tiny/`, and 20 more by a trainer that knows the checkpoint alone. It prints the
//! figures of the last steps side by side; on the CPU they agree in every bit.

use std::path::Path;

use anyhow::{anyhow, ensure};
use burn::tensor::Device;
use dmd::core::{Distiller, FewStep, GaussianMixture, Level, Noise, TimeSampler};
use dmd::scheduler::KarrasSchedule;
use dmd::train::{Batch, LearningRate, Trainer, TrainerConfig};
use dmd::weights::{WholeFolder, read_json, write_json};
use dmd_ablations::toy::Mlp;

type Toy = Trainer<'static, Mlp, GaussianMixture, Mlp, KarrasSchedule>;
type Figures = Vec<(&'static str, f64)>;

/// A trainer before its first step. The networks start from random weights, other ones at every call.
fn fresh(device: &Device) -> Toy {
    let schedule = KarrasSchedule::default();
    let teacher = GaussianMixture::new(&[(1.0, &[0.6, 0.2], 0.1), (2.0, &[-0.4, -0.3], 0.15)]);
    let network = || Mlp::new(32, 0.5, &device.clone().autodiff());
    let generator = FewStep::new(network(), vec![Level::of_sigma(1.0)]);
    let times = TimeSampler::Grid(schedule.sigmas(1000));
    let config = TrainerConfig {
        generator_rate: LearningRate::cosine(2e-3, 10, 40),
        fake_rate: LearningRate::cosine(2e-3, 10, 40),
        ema_decay: 0.9,
        ..TrainerConfig::new([64, 2, 1, 1], times.clone(), times)
    };
    Trainer::new(config, Distiller::new(generator, teacher, network(), schedule), Noise::from_seed(1), device)
}

/// Twenty steps, and the figures of each.
fn advance(trainer: &mut Toy) -> anyhow::Result<Vec<Figures>> {
    let step = |_| {
        let figures = trainer.step(|_, _| Ok(Batch::new(())))?;
        figures.read().map_err(|bad| anyhow!("the figure {} is {}", bad.term, bad.value))
    };
    (0..20).map(step).collect()
}

/// Networks, average and optimisers, the number of steps and the position of the random numbers are all of a run. The folder
/// is replaced as one: a program that is killed here leaves the checkpoint before.
fn save(trainer: &mut Toy, folder: &Path) -> anyhow::Result<()> {
    let state = (trainer.steps(), trainer.noise().position().to_string());
    WholeFolder::new(folder).replace(|fresh| {
        trainer.save(fresh)?;
        Ok::<_, anyhow::Error>(write_json(&fresh.join("state.json"), &state)?)
    })
}

fn resume(folder: &Path, device: &Device) -> anyhow::Result<Toy> {
    let (steps, position): (usize, String) = read_json(&folder.join("state.json"))?;
    let mut trainer = fresh(device);
    trainer.load(folder, steps)?;
    trainer.noise().seek(position.parse()?);
    Ok(trainer)
}

fn main() -> anyhow::Result<()> {
    let device = dmd::device::open("flex")?;
    let folder = Path::new("train_tiny");
    let mut trainer = fresh(&device);
    advance(&mut trainer)?;
    save(&mut trainer, folder)?;
    let straight = advance(&mut trainer)?;
    drop(trainer);
    let resumed = advance(&mut resume(folder, &device)?)?;

    println!("step 40 without a stop | resumed after step 20");
    for ((name, a), (_, b)) in straight[19].iter().zip(&resumed[19]) {
        println!("  {name:18} {a:12.8} | {b:12.8}");
    }
    ensure!(straight == resumed, "the resumed training differs");
    Ok(())
}
