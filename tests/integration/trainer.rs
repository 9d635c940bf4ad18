//! The trainer as a library's user meets it: what it refuses.

use burn::tensor::{Device, Tensor};
use dmd_ablations::toy::Mlp;
use dmd_core::{Distiller, FewStep, GaussianMixture, Level, Noise};
use dmd_scheduler::{KarrasSchedule, TimeSampler};
use dmd_train::{Adversarial, Batch, Error, Regression, Trainer, TrainerConfig};

const SHAPE: [usize; 4] = [4, 2, 1, 1];

type Toy = Distiller<Mlp, GaussianMixture, Mlp, KarrasSchedule>;

fn toy(levels: &[f64]) -> Toy {
    let training = Device::flex().autodiff();
    let mlp = || Mlp::new(8, 0.5, &training);
    Distiller::new(
        FewStep::new(mlp(), levels.iter().map(|sigma| Level::of_sigma(*sigma)).collect())
            .with_noise_scale(levels[0]),
        GaussianMixture::new(&[(1.0, &[0.5, 0.0], 0.1)]),
        mlp(),
        KarrasSchedule::default(),
    )
}

fn times() -> TimeSampler {
    TimeSampler::Grid(KarrasSchedule::default().sigmas(1000))
}

fn config() -> TrainerConfig<'static> {
    TrainerConfig { fake_updates: 2, ..TrainerConfig::new(SHAPE, times(), times()) }
}

fn adversarial() -> Adversarial {
    Adversarial { generator_weight: 1e-3, critic_weight: 1e-2, times: times() }
}

fn rows(count: usize) -> Tensor<4> {
    Tensor::ones([count, 2, 1, 1], &Device::flex())
}

/// What the first step of a trainer says.
fn first_step(config: TrainerConfig<'_>, distiller: Toy, batch: &Batch<()>) -> Result<(), String> {
    let mut trainer = Trainer::new(config, distiller, Noise::from_seed(1), &Device::flex());
    match trainer.step(|_, _| Ok(batch.clone())) {
        Ok(_) => Ok(()),
        Err(Error::Training(reason)) => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

/// A term that cannot be computed is an error, not a term that is left out.
#[test]
fn a_trainer_refuses_what_it_cannot_use() {
    let (plain, one) = (Batch::new(()), || toy(&[80.0]));
    let paired = |count| Batch::new(()).with_pairs(rows(count), rows(count));
    let real = Batch::new(()).with_reals(rows(4), ());
    let warm_up =
        || TrainerConfig { regression: Regression { warmup_steps: 1, ..Regression::default() }, ..config() };
    let critic = || TrainerConfig { adversarial: Some(adversarial()), ..config() };
    let refused = |config, distiller, batch: &Batch<()>, word: &str| {
        let reason = first_step(config, distiller, batch).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    refused(TrainerConfig { accumulate: 0, ..config() }, one(), &plain, "accumulate");
    refused(warm_up(), one(), &plain, "warm-up");
    refused(config(), one(), &paired(5), "do not fit");
    refused(config(), toy(&[80.0, 1.0]), &paired(2), "generator of 2 steps");
    refused(critic(), one(), &plain, "real samples");
    refused(critic(), one(), &real, "critic's head");
    // In the warm-up the critic is trained alone.
    let both = TrainerConfig { adversarial: Some(adversarial()), ..warm_up() };
    refused(both, one(), &paired(4).with_reals(rows(4), ()), "critic's head");

    first_step(config(), one(), &plain).unwrap();
    first_step(warm_up(), one(), &paired(4)).unwrap();
    first_step(config(), toy(&[80.0, 1.0]), &plain).unwrap();
    let mut with_head = one();
    with_head.fake = with_head.fake.with_critic(&Device::flex().autodiff());
    first_step(critic(), with_head, &real).unwrap();
}
