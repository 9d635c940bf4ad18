//! The losses, and which network their gradients reach.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use dmd_core::{Adversary, Diffusion, Noise, Reals, SquaredError, Targets, Terms};
use dmd_scheduler::{KarrasSchedule, TimeSampler};

use crate::alone;
use crate::tiny::toy;

/// Each loss moves its own network and no other.
#[test]
fn gradients_stay_in_their_network() {
    let _alone = alone();
    let (distiller, draw) = toy();
    let targets = Targets { x0: draw.z.clone().narrow(0, 0, 4), weight: 0.25, distance: &SquaredError };
    let terms = Terms { targets: Some(targets), ..Terms::default() };
    let loss = distiller.generator_loss(&draw, &terms, &()).unwrap();
    let mut grads = loss.total.backward();
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    assert!(!generator.is_empty());
    assert!(fake.is_empty(), "the generator's loss reaches the fake score");

    let mut grads = distiller.fake_loss(loss.x, &draw.diffusion, &()).backward();
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    assert!(!fake.is_empty());
    assert!(generator.is_empty(), "the fake score's loss reaches the generator");
}

/// The total is matching plus weight times regression; the surrogate's value is `½ mean g²`.
#[test]
fn generator_loss_adds_up() {
    let _alone = alone();
    let (distiller, draw) = toy();
    let number = |t: Tensor<1>| t.without_autodiff().into_scalar::<f32>();
    let targets = Targets { x0: draw.z.clone().narrow(0, 0, 4), weight: 0.25, distance: &SquaredError };
    let terms = Terms { targets: Some(targets), ..Terms::default() };
    let loss = distiller.generator_loss(&draw, &terms, &()).unwrap();
    let (total, matching) = (number(loss.total), number(loss.matching.unwrap()));
    let regression = number(loss.regression.unwrap());
    assert!((total - matching - 0.25 * regression).abs() < 1e-5 * total.abs());
    let alone = distiller.generator_loss(&draw, &Terms::default(), &()).unwrap();
    assert!(alone.regression.is_none());
    assert!((number(alone.total) - matching).abs() < 1e-6 * matching.abs());
    assert!(!loss.x.is_autodiff());
}

/// DMD2's adversarial term: at logits 0 the losses are ln 2 and 2 ln 2; the generator's turn moves the
/// generator through the critic and leaves no gradient on it; the critic's turn is the fake score's.
#[test]
fn adversarial_terms_stay_in_their_network() {
    let _alone = alone();
    let (mut distiller, draw) = toy();
    let device = Device::flex();
    let schedule = KarrasSchedule::default();
    let times = TimeSampler::Grid(schedule.sigmas(1000));
    let mut noise = Noise::from_seed(4);
    let diffusion = Diffusion::new(&mut noise, [8, 2, 1, 1], &times, &device);
    let only = |weight| Terms {
        matching: None,
        targets: None,
        adversary: Some(Adversary { diffusion: diffusion.clone(), weight }),
    };
    let number = |t: &Tensor<1>| t.clone().without_autodiff().into_scalar::<f32>();
    // Without a head there is no term, and the loss of no term is 0.
    let none = distiller.generator_loss(&draw, &only(1.0), &()).unwrap();
    assert!(none.adversarial.is_none() && number(&none.total) == 0.0);

    distiller.fake = distiller.fake.with_critic(&device.clone().autodiff());
    let loss = distiller.generator_loss(&draw, &only(0.5), &()).unwrap();
    let adversarial = number(loss.adversarial.as_ref().unwrap());
    assert!((number(&loss.total) - 0.5 * adversarial).abs() < 1e-6);
    let mut grads = loss.total.backward();
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    assert!(!generator.is_empty());
    assert!(fake.is_empty(), "the generator's turn leaves gradients on the critic");

    let x0 = distiller.teacher.sample(8, &mut noise, &device);
    let reals =
        Reals { x0, condition: (), diffusion: Diffusion::new(&mut noise, [8, 2, 1, 1], &times, &device) };
    let critic = distiller.critic_loss(loss.x, &diffusion, &(), &reals).unwrap();
    let mut grads = critic.loss.backward();
    let fake = GradientsParams::from_module(&mut grads, &distiller.fake);
    let generator = GradientsParams::from_module(&mut grads, &distiller.generator);
    assert!(!fake.is_empty());
    assert!(generator.is_empty(), "the critic's turn reaches the generator");
}
