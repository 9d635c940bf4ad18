use std::path::PathBuf;

use burn::tensor::FloatDType;
use dmd_core::matching::Weighting;
use dmd_core::objective::Divergence;
use dmd_core::{Prediction, TimeDistribution};
use dmd_eval::Backbone;
use serde::{Deserialize, Serialize};

use crate::LearningRate;

/// `[generator]` of a distillation: how the generator is called and trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorSection {
    /// Samples per micro-batch.
    pub batch: usize,
    /// Learning rate after the warm-up (DMD and DMD2 for Stable Diffusion: 1e-5).
    pub learning_rate: f64,
    /// What the learning rate does after its warm-up: stay constant, as published, or fall to a tenth along a cosine.
    pub schedule: Schedule,
    /// Steps of linear warm-up, of generator and fake score (DMD and DMD2: 500).
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average. With 0, as in DMD and DMD2, the result is the generator itself.
    pub ema_decay: f64,
    /// Keep the moving average in the host's memory instead of the device's. Each step moves the parameters there.
    pub ema_on_host: bool,
    /// File of weights to start from instead of the teacher's: of an earlier run's `unet_one_step`, or with `[lora]` its
    /// LoRA file. The optimiser starts afresh, as in DMD2's second stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The generator's timesteps, descending: one entry for a generator of one step, several for one of several steps
    /// (DMD2: 999, 749, 499, 249). An empty list means one step at the noisiest timestep, as in DMD; DMD2's one-step
    /// SDXL has 399.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timesteps: Vec<usize>,
    /// Micro-batches per update, of `batch` samples each. Their gradients are averaged.
    pub accumulate: usize,
    /// Micro-batches that are computed at the same time on a CPU's threads. Small networks train faster this way. Each
    /// micro-batch holds its own activations.
    pub parallel: usize,
    /// Save memory: the backward pass computes each residual block with its attention again, instead of keeping its
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

/// What a learning rate does after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays constant.
    #[default]
    Constant,
    /// It falls along half a cosine to a tenth at the last step.
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

/// `[fake]` of a distillation: how the fake score is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeSection {
    /// Learning rate after the warm-up (DMD and DMD2 for Stable Diffusion: 1e-5).
    pub learning_rate: f64,
    /// What the learning rate does after its warm-up: stay constant, as published, or fall to a tenth along a cosine.
    pub schedule: Schedule,
    /// File of weights to start from instead of the teacher's: of an earlier run's `fake_score`, as in DMD2's second
    /// stages, or with `[lora]` the LoRA file there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The parameterisation whose squared error is the loss. By default it is the teacher's own, as in DMD and DMD2:
    /// `epsilon` for Stable Diffusion 1.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Prediction>,
    /// Updates of the fake score per update of the generator (DMD: 1; DMD2: 5 for SDXL and ImageNet, 10 for Stable
    /// Diffusion 1.5).
    pub steps_per_generator_step: usize,
    /// Share by which the fake score moves towards the generator after each update of the generator (implicit distribution
    /// alignment; SenseFlow uses 0.02 for Stable Diffusion 3.5). 0 turns it off.
    #[serde(skip_serializing_if = "is_zero")]
    pub alignment: f64,
    /// How often the fake score learns at each of the schedule's noise levels (DMD and DMD2: equally).
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

/// `[matching]` of a distillation: the term that compares teacher and fake score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MatchingSection {
    /// Least noisy timestep at which teacher and fake score are compared (DMD and DMD2: 20 of 1000).
    pub first_timestep: usize,
    /// Noisiest timestep at which they are compared (DMD and DMD2: 980 of 1000).
    pub last_timestep: usize,
    /// How often they are compared at each of these timesteps (DMD and DMD2: equally).
    #[serde(skip_serializing_if = "TimeDistribution::is_uniform")]
    pub times: TimeDistribution,
    /// How the difference of the predictions is weighted.
    pub weighting: Weighting,
    /// What is computed from the predictions: DMD's gradient, or a newer objective.
    #[serde(skip_serializing_if = "ObjectiveSection::is_matching")]
    pub objective: ObjectiveSection,
}

/// What a distillation computes from the predictions of teacher and fake score.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveSection {
    /// DMD's and DMD2's: the difference of the predictions.
    #[default]
    DistributionMatching,
    /// f-distill: DMD's gradient, each sample's weighted by the ratio of the densities. It needs `[adversarial]`, whose
    /// critic estimates the ratio.
    FDivergence(Divergence),
    /// DMD's gradient, with the part that guidance adds taken at timesteps of its own. `weighting` must be normalised, with
    /// or without a floor.
    DecoupledGuidance {
        /// Lowest timestep at which guidance is taken.
        first_timestep: usize,
        /// Highest timestep at which guidance is taken.
        last_timestep: usize,
    },
    /// SiD's loss. `weighting` has no effect on it.
    ScoreIdentity {
        /// Factor of the squared difference that is subtracted; SiD uses 1.2, and 1.0 beside `[adversarial]`.
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

/// `[adversarial]` of a distillation: DMD2's critic, which learns to separate real pictures from generated ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversarialSection {
    /// Weight in the generator's loss (DMD2: 1e-3 for Stable Diffusion).
    #[serde(default = "generator_weight")]
    pub generator_weight: f64,
    /// Weight in the fake score's loss (DMD2: 1e-2).
    #[serde(default = "critic_weight")]
    pub critic_weight: f64,
    /// Number of real pictures that are used; each is encoded once.
    pub reals: usize,
    /// The noisiest timestep at which the critic sees samples; by default the schedule's last (DMD2 for latents). Lower it
    /// if generated and real samples differ in their details only, which noise hides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_timestep: Option<usize>,
}

fn generator_weight() -> f64 {
    1e-3
}

fn critic_weight() -> f64 {
    1e-2
}

/// `[regression]` of a distillation: DMD's term on pairs of noise and the teacher's sample. DMD2 does without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegressionSection {
    /// Weight beside the matching term (DMD: 0.25).
    pub weight: f64,
    /// Number of pairs of noise and the teacher's sample.
    pub pairs: usize,
    /// The teacher's sampling steps for a pair.
    pub sampling_steps: usize,
    /// Steps at the beginning that use the regression term alone.
    pub warmup_steps: usize,
    /// How the error is measured if `perceptual` is not set.
    #[serde(default)]
    pub measure: Measure,
    /// LPIPS of decoded pictures, as in DMD, in place of `measure`.
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
    /// Their pseudo-Huber measure, in which a few large errors count for less.
    PseudoHuber {
        /// Differences well above `c` count by their size, those below by their square.
        c: f64,
    },
}

/// `[regression.perceptual]`: DMD's measure of the regression term.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualSection {
    /// The network whose features are compared.
    #[serde(default)]
    pub network: Backbone,
    /// torchvision's file of that network.
    pub trunk: PathBuf,
    /// `lpips`' file of weights for it.
    pub weightings: PathBuf,
    /// Height and width to which pictures are resized first (DMD on CIFAR-10 and ImageNet-64: 224). By default they are
    /// compared as decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Folder of a TAESD that decodes the samples instead of the model's autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taesd: Option<PathBuf>,
}

/// The float type of the teacher's network during a distillation.
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
