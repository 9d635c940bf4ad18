//! The trainer's updates.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_ablations::toy::Mlp;
use dmd_core::{GaussianMixture, Noise};
use dmd_scheduler::{KarrasSchedule, TimeSampler};
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::{Pace, Probe, Stage, run};
use dmd_train::{Adversarial, Batch, Error, Figures, LearningRate, Trainer, TrainerConfig};

use crate::tiny::toy;
use crate::{StopAt, alone, checkpoint_folder};

type ToyTrainer = Trainer<'static, Mlp, GaussianMixture, Mlp, KarrasSchedule>;

fn config() -> TrainerConfig<'static> {
    let times = TimeSampler::Grid(KarrasSchedule::default().sigmas(1000));
    TrainerConfig {
        generator_rate: LearningRate::constant(1e-3, 0),
        fake_rate: LearningRate::constant(1e-3, 0),
        fake_updates: 2,
        ..TrainerConfig::new([4, 2, 1, 1], times.clone(), times)
    }
}

/// A trainer with a critic, the same one every time.
fn trainer(config: TrainerConfig<'static>) -> ToyTrainer {
    let (mut distiller, _) = toy();
    let device = Device::flex();
    distiller.fake = distiller.fake.with_critic(&device.clone().autodiff());
    Trainer::new(config, distiller, Noise::from_seed(6), &device)
}

/// Micro-batches side by side give the very losses and weights they give one after another, every time: each has a
/// graph of its own, and their gradients are added in one order.
#[test]
fn turns_side_by_side() {
    let _alone = alone();
    let device = Device::flex();
    let trained = |parallel: usize| {
        let times = config().times;
        let adversarial = Adversarial { generator_weight: 0.1, critic_weight: 0.1, times };
        let config = TrainerConfig { accumulate: 5, parallel, adversarial: Some(adversarial), ..config() };
        let mut trainer = trainer(config);
        let mut figures = Vec::new();
        for _ in 0..20 {
            let step = trainer.step(|_, noise| {
                let mut points = || noise.normal([2, 2, 1, 1], &device);
                let (z, x0, real) = (points(), points(), points());
                Ok(Batch::new(()).with_pairs(z, x0).with_reals(Tensor::cat(vec![real.clone(), real], 0), ()))
            });
            figures.push(step.unwrap().read().unwrap());
        }
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        let file = |name: &str| std::fs::read(folder.path().join(format!("{name}.safetensors"))).unwrap();
        (figures, ["generator", "fake", "generator_optimizer", "fake_optimizer"].map(file))
    };
    let (figures, files) = trained(1);
    let value = |name: &str| figures[19].iter().find(|(term, _)| *term == name).unwrap().1;
    for term in ["matching", "regression", "adversarial", "gradient_norm", "fake", "critic"] {
        assert!(value(term) > 0.0, "{term}");
    }
    for parallel in [2, 5] {
        let (others, other_files) = trained(parallel);
        assert_eq!(figures, others);
        assert!(files == other_files, "{parallel} side by side give other weights");
    }
}

/// The losses of an update of two micro-batches are the means of those of each alone, whose noise follows the other's.
#[test]
fn losses_are_means_over_micro_batches() {
    let _alone = alone();
    let losses = |accumulate: usize, from: u128| {
        let mut trainer = trainer(TrainerConfig { accumulate, fake_updates: 0, ..config() });
        trainer.noise().seek(from);
        let figures = trainer.step(|_, _| Ok(Batch::new(()))).unwrap().read().unwrap();
        let of = |name: &str| figures.iter().find(|(term, _)| *term == name).unwrap().1;
        (["matching", "sample_mean", "sample_deviation"].map(of), trainer.noise().position())
    };
    let start = trainer(config()).noise().position();
    let (first, between) = losses(1, start);
    let (second, _) = losses(1, between);
    let (both, _) = losses(2, start);
    assert_ne!(first, second);
    for ((both, first), second) in both.into_iter().zip(first).zip(second) {
        // Each value was rounded to f32 before the mean was taken in f64.
        assert_eq!(both, (first + second) / 2.0);
    }
}

/// A trainer whose real samples are not finite in one step.
struct Damaged {
    trainer: ToyTrainer,
    at: usize,
}

impl Stage for Damaged {
    fn name(&self) -> &'static str {
        "damaged"
    }

    fn made_from(&self) -> Fingerprint {
        Fingerprint::new()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        let value = if self.trainer.steps() + 1 == self.at { f32::NAN } else { 0.5 };
        let reals = Tensor::full([4, 2, 1, 1], value, &Device::flex());
        self.trainer.step(|_, _| Ok(Batch::new(()).with_reals(reals.clone(), ())))
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainer.save(folder)
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        self.trainer.load(folder, steps)
    }

    fn noise(&mut self) -> &mut Noise {
        self.trainer.noise()
    }

    fn probe(&self, _stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        Ok(None)
    }
}

/// An update of the fake score alone that is not finite stops the run, and is not taken: in the step it is made, and,
/// where figures are read more seldom, before a checkpoint could record it.
#[test]
fn a_fake_update_that_is_not_finite_stops_the_run() {
    let _alone = alone();
    let stopped = |log_every: usize| {
        let adversarial = Adversarial { generator_weight: 0.1, critic_weight: 0.1, times: config().times };
        let trainer = trainer(TrainerConfig { adversarial: Some(adversarial), ..config() });
        let folder = tempfile::tempdir().unwrap();
        let pace =
            Pace { steps: 9, log_every, grid_every: 100, checkpoint_every: 2, keep: 1, tensorboard: false };
        let mut stage = Damaged { trainer, at: 3 };
        let error = run(&mut stage, &pace, folder.path(), &mut StopAt(100, 0)).unwrap_err();
        let state = checkpoint_folder(folder.path(), "damaged").join("state.json");
        let state: serde_json::Value = dmd_weights::read_json(&state).unwrap();
        assert_eq!(state["step"], 2, "a checkpoint records the damage");
        let fake = dmd_weights::tensors(&stage.trainer.distiller().fake, &dmd_weights::KeyMap::default());
        assert!(fake.iter().all(|(_, _, values)| values.iter().all(|value| value.is_finite())));
        error
    };
    let error = stopped(1);
    assert!(matches!(error, Error::Diverged { step: 3, term: "critic", saved: 2, .. }), "{error}");
    // The critic is finite again when the figures of step 4 are read: the refused update is not forgotten.
    let error = stopped(4);
    let term = "fake_gradient_norm";
    assert!(matches!(&error, Error::Diverged { step: 4, term: t, .. } if *t == term), "{error}");
}
