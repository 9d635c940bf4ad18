use burn::tensor::Device;
use dmd_core::matching::Weighting;
use dmd_core::{Distance, Objective, SquaredError, TimeSampler};

use crate::{AdamWConfig, LearningRate};

/// How a [`Trainer`](crate::Trainer) trains.
#[derive(Debug)]
pub struct TrainerConfig<'a> {
    /// Shape of a micro-batch of samples, `[batch, channels, height, width]`.
    pub shape: [usize; 4],
    /// Micro-batches per update; gradients are averaged over them.
    pub accumulate: usize,
    /// Micro-batches computed side by side on a CPU's threads. Each holds its own activations.
    pub parallel: usize,
    /// Learning rate of the generator.
    pub generator_rate: LearningRate,
    /// Learning rate of the fake score.
    pub fake_rate: LearningRate,
    /// Updates of the fake score per update of the generator (DMD: 1; DMD2: 5 to 10).
    pub fake_updates: usize,
    /// The share of the generator that is mixed into the fake score after each update of the generator ([`crate::align`]);
    /// 0 is none.
    pub alignment: f64,
    /// Decay of the moving average of the generator's parameters; 0 is no average.
    pub ema_decay: f64,
    /// Where the average is kept; without it on the training's device.
    pub ema_place: Option<Device>,
    /// Constants of both optimisers.
    pub optimizer: AdamWConfig,
    /// The objective that matches distributions, such as a [`Weighting`]; `None` leaves the term out.
    pub matching: Option<Box<dyn Objective + 'a>>,
    /// Times to which distribution matching diffuses the generator's samples (DMD: 20 to 980 of 1000).
    pub matching_times: TimeSampler,
    /// All times of the schedule, for the fake score.
    pub times: TimeSampler,
    /// DMD's regression to the teacher's samples, on batches that have pairs.
    pub regression: Regression<'a>,
    /// DMD2's adversarial term, on batches that have real samples. The fake score needs a critic's head.
    pub adversarial: Option<Adversarial>,
}

/// DMD's regression term.
#[derive(Debug)]
pub struct Regression<'a> {
    /// Weight beside the matching term (DMD: 0.25).
    pub weight: f64,
    /// What is minimised.
    pub distance: Box<dyn Distance + 'a>,
    /// First steps with the regression alone.
    pub warmup_steps: usize,
}

impl Default for Regression<'_> {
    /// The squared error with DMD's weight, without a warm-up.
    fn default() -> Self {
        Self { weight: 0.25, distance: Box::new(SquaredError), warmup_steps: 0 }
    }
}

/// DMD2's adversarial term.
#[derive(Debug, Clone)]
pub struct Adversarial {
    /// Weight in the generator's loss (DMD2: 1e-3 for Stable Diffusion).
    pub generator_weight: f64,
    /// Weight in the fake score's loss (DMD2: 1e-2).
    pub critic_weight: f64,
    /// Times at which the critic sees samples.
    pub times: TimeSampler,
}

impl TrainerConfig<'_> {
    /// DMD2's first stage: distribution matching with five updates of the fake score for one of the generator, both at
    /// the constant learning rate 1e-5, without an average.
    pub fn new(shape: [usize; 4], matching_times: TimeSampler, times: TimeSampler) -> Self {
        Self {
            shape,
            accumulate: 1,
            parallel: 1,
            generator_rate: LearningRate::constant(1e-5, 0),
            fake_rate: LearningRate::constant(1e-5, 0),
            fake_updates: 5,
            alignment: 0.0,
            ema_decay: 0.0,
            ema_place: None,
            optimizer: AdamWConfig::default(),
            matching: Some(Box::new(Weighting::Normalised)),
            matching_times,
            times,
            regression: Regression::default(),
            adversarial: None,
        }
    }
}
