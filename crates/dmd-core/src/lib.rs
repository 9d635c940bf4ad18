//! The mathematics of Distribution Matching Distillation, and nothing else: no files, no concrete
//! networks, no optimiser, no thread, no clock.
//!
//! A noisy sample is `x_t = alpha · x0 + sigma · eps` ([`NoiseLevel::add_noise`]). Teacher, fake
//! score, generator and the analytic mixture all estimate `E[x0 | x_t]` ([`Denoiser`]). The five
//! equations of the method, each with the function that computes it:
//!
//! | equation | function |
//! | --- | --- |
//! | `x0 = c_skip · x_t + c_out · F(c_in · x_t)` | [`Prediction::to_x0`] |
//! | `score = (alpha · x0 − x_t) / sigma²` | [`score`] |
//! | `g = (fake_x0 − real_x0) / mean\|x − real_x0\|` | [`matching::gradient`] |
//! | `L_DM = ½ · mean (x − stop(x − g))²` | [`matching::surrogate_loss`] |
//! | `L_fake = mean w · (x0_hat − x0)²` | [`denoising::loss`] |
//!
//! Randomness is a value: every random number comes from [`Noise`], drawn on the host, and is an
//! argument of the function that needs it.

pub mod adversarial;
mod denoiser;
pub mod denoising;
mod distance;
mod distiller;
mod few_step;
mod guidance;
mod level;
pub mod matching;
mod mixture;
mod noise;
pub mod objective;
mod prediction;
pub mod regression;
mod schedule;
mod times;
mod torch_noise;
mod turn;

pub use denoiser::{Classes, Condition, Denoiser, FakeScore, one_hot, score};
pub use distance::{Distance, PseudoHuber, SquaredError};
pub use distiller::{Both, Distiller, one_after_the_other};
pub use few_step::FewStep;
pub use guidance::Guided;
pub use level::{Level, NoiseLevel, per_sample};
pub use mixture::GaussianMixture;
pub use noise::Noise;
pub use objective::Objective;
pub use prediction::{Prediction, Scalings};
pub use schedule::NoiseSchedule;
pub use times::{TimeDistribution, TimeSampler};
pub use turn::{Adversary, CriticLoss, Diffusion, Draw, GeneratorLoss, Reals, Targets, Terms};

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
