use std::path::PathBuf;

use burn::tensor::FloatDType;
use dmd_core::matching::Weighting;
use dmd_core::objective::Divergence;
use dmd_core::{Prediction, TimeDistribution};
use dmd_eval::Backbone;
use serde::{Deserialize, Serialize};

use crate::LearningRate;

/// `[generator]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorSection {
    /// Samples per turn.
    pub batch: usize,
    /// Learning rate after the warm-up (DMD and DMD2 for Stable Diffusion: 1e-5).
    pub learning_rate: f64,
    /// How the learning rate goes on: constant, as published, or a cosine.
    pub schedule: Schedule,
    /// Steps of linear warm-up, of generator and fake score (DMD and DMD2: 500).
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average (0: none, as in DMD and DMD2).
    pub ema_decay: f64,
    /// Keep the moving average in the host's memory instead of the device's. Each step moves the parameters there.
    pub ema_on_host: bool,
    /// Weights to start from instead of the teacher's: an earlier run's `unet_one_step` file (DMD2's second
    /// stages load weights alone, with fresh optimisers); with `[lora]` an earlier run's LoRA file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The generator's timesteps, descending: one for a generator of one step (by default the noisiest, as in DMD;
    /// DMD2's one-step SDXL has 399), several for one of several steps (DMD2: 999, 749, 499, 249).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timesteps: Vec<usize>,
    /// Micro-batches per update, of `batch` samples each: gradients are averaged over them.
    pub accumulate: usize,
    /// Micro-batches computed side by side on a CPU's threads; small networks train faster so. Each holds its own
    /// activations.
    pub parallel: usize,
    /// Compute each residual block of the networks, with its attention, again in the backward pass instead of keeping its
    /// activations.
    pub recompute: bool,
}

impl Default for GeneratorSection {
    fn default() -> Self {
        Self {
            batch: 1,
            learning_rate: 1e-5,
            schedule: Schedule::default(),
            warmup_steps: 500,
            ema_decay: 0.0,
            ema_on_host: false,
            start: None,
            timesteps: Vec::new(),
            accumulate: 1,
            parallel: 1,
            recompute: false,
        }
    }
}

/// How a learning rate goes on after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// A half cosine to a tenth at the last step.
    Cosine,
}

impl Schedule {
    /// A teacher's default.
    pub(crate) fn cosine() -> Self {
        Self::Cosine
    }

    /// The rates of a run of so many steps.
    pub(crate) fn rate(self, base: f64, warmup_steps: usize, steps: usize) -> LearningRate {
        match self {
            Self::Constant => LearningRate::constant(base, warmup_steps),
            Self::Cosine => LearningRate::cosine(base, warmup_steps, steps),
        }
    }
}

/// `[fake]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeSection {
    /// Learning rate after the warm-up (DMD and DMD2 for Stable Diffusion: 1e-5).
    pub learning_rate: f64,
    /// How the learning rate goes on: constant, as published, or a cosine.
    pub schedule: Schedule,
    /// Weights to start from instead of the teacher's: an earlier run's `fake_score` file, with which DMD2's second
    /// stages go on; with `[lora]` the LoRA file there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The parameterisation whose squared error is the loss (DMD and DMD2: the teacher's own,
    /// `epsilon`, which is also the default; see `diffusion.loss` of a teacher).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Prediction>,
    /// Updates per generator update (DMD: 1; DMD2: 5 for SDXL and ImageNet, 10 for Stable Diffusion 1.5).
    pub steps_per_generator_step: usize,
    /// The share of the generator that is mixed into it after each update of the generator (implicit distribution
    /// alignment, SenseFlow: 0.02 for Stable Diffusion 3.5); 0, the default, is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub alignment: f64,
    /// How often it learns at each of the schedule's levels (DMD and DMD2: equally).
    #[serde(skip_serializing_if = "TimeDistribution::is_uniform")]
    pub times: TimeDistribution,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Default for FakeSection {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            schedule: Schedule::default(),
            start: None,
            loss: None,
            steps_per_generator_step: 10,
            alignment: 0.0,
            times: TimeDistribution::default(),
        }
    }
}

/// `[matching]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MatchingSection {
    /// Lowest timestep the samples are diffused to (DMD and DMD2: 20 of 1000).
    pub first_timestep: usize,
    /// Highest timestep (DMD and DMD2: 980 of 1000).
    pub last_timestep: usize,
    /// How often teacher and fake score see each of these levels (DMD and DMD2: equally).
    #[serde(skip_serializing_if = "TimeDistribution::is_uniform")]
    pub times: TimeDistribution,
    /// How the difference of the predictions is weighted.
    pub weighting: Weighting,
    /// What is made of the predictions: DMD's gradient, or a newer objective.
    #[serde(skip_serializing_if = "ObjectiveSection::is_matching")]
    pub objective: ObjectiveSection,
}

/// `matching.objective` of a distillation.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveSection {
    /// DMD's and DMD2's: the difference of the predictions.
    #[default]
    DistributionMatching,
    /// f-distill: the same, weighted by the ratio of the densities: `{ f_divergence = "jensen_shannon" }`. It needs
    /// `[adversarial]`, whose critic estimates the ratio.
    FDivergence(Divergence),
    /// DMD's gradient with guidance at times of its own: `{ decoupled_guidance = { first_timestep = 20, last_timestep = 980 } }`.
    /// `weighting` is normalised, with a floor where one is given.
    DecoupledGuidance {
        /// Lowest timestep at which guidance is taken.
        first_timestep: usize,
        /// Highest timestep at which guidance is taken.
        last_timestep: usize,
    },
    /// SiD: `{ score_identity = { alpha = 1.2 } }`, beside `[adversarial]` 1.0. `weighting` says nothing here.
    ScoreIdentity {
        /// How much of the squared difference is taken off.
        alpha: f64,
    },
}

impl ObjectiveSection {
    fn is_matching(&self) -> bool {
        *self == Self::DistributionMatching
    }
}

impl Default for MatchingSection {
    fn default() -> Self {
        let times = TimeDistribution::default();
        let (weighting, objective) = Default::default();
        Self { first_timestep: 20, last_timestep: 980, times, weighting, objective }
    }
}

/// `[adversarial]` of a distillation: DMD2's term on real samples. Left out, there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversarialSection {
    /// Weight in the generator's loss (DMD2: 1e-3 for Stable Diffusion).
    #[serde(default = "generator_weight")]
    pub generator_weight: f64,
    /// Weight in the fake score's loss (DMD2: 1e-2).
    #[serde(default = "critic_weight")]
    pub critic_weight: f64,
    /// Real pictures, encoded once.
    pub reals: usize,
    /// The noisiest timestep at which the critic sees samples; without it the schedule's last (DMD2 for latents).
    /// Samples that differ in their details alone are told apart at low noise only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_timestep: Option<usize>,
}

fn generator_weight() -> f64 {
    1e-3
}

fn critic_weight() -> f64 {
    1e-2
}

/// `[regression]` of a distillation: DMD's paired term. Left out, there is none (DMD2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressionSection {
    /// Weight beside the matching term (DMD: 0.25).
    pub weight: f64,
    /// Pairs of noise and teacher's sample.
    pub pairs: usize,
    /// Sampling steps of a pair.
    pub sampling_steps: usize,
    /// First steps with the regression term alone.
    pub warmup_steps: usize,
    /// What is measured, where there is no `perceptual`.
    #[serde(default)]
    pub measure: Measure,
    /// LPIPS of decoded pictures instead of the squared error of the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualSection>,
}

/// The regression term's measure without perceptual weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Measure {
    /// The squared error of the samples.
    #[default]
    Squared,
    /// Their pseudo-Huber measure: `measure = { pseudo_huber = { c = 0.1 } }`.
    PseudoHuber {
        /// Differences well above it count by their size, below by their square.
        c: f64,
    },
}

/// `[regression.perceptual]`: DMD's measure of the regression term.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualSection {
    /// Whose features.
    #[serde(default)]
    pub network: Backbone,
    /// torchvision's file of that network.
    pub trunk: PathBuf,
    /// `lpips`' file of weights for it.
    pub weightings: PathBuf,
    /// Height and width the pictures are brought to first (DMD on CIFAR-10 and ImageNet-64: 224).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Folder of a TAESD that decodes instead of the model's autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taesd: Option<PathBuf>,
}

/// The float type of the teacher's network during distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FrozenPrecision {
    /// f32.
    #[default]
    #[serde(rename = "f32")]
    Single,
    /// f16: half the memory.
    #[serde(rename = "f16")]
    Half,
    /// bf16: half the memory, the range of f32.
    #[serde(rename = "bf16")]
    Brain,
}

impl FrozenPrecision {
    /// The float type.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::Single => FloatDType::F32,
            Self::Half => FloatDType::F16,
            Self::Brain => FloatDType::BF16,
        }
    }
}

/// The float type in which trained networks compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrainedPrecision {
    /// f32.
    #[default]
    #[serde(rename = "f32")]
    Single,
    /// bf16: half the memory for activations, and for a frozen network; the range of f32, so that no loss is scaled.
    #[serde(rename = "bf16")]
    Brain,
}

impl TrainedPrecision {
    /// The float type.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::Single => FloatDType::F32,
            Self::Brain => FloatDType::BF16,
        }
    }
}
