use std::path::PathBuf;

use burn::tensor::FloatDType;
use dmd_core::Prediction;
use dmd_core::matching::Weighting;
use dmd_eval::Backbone;
use serde::{Deserialize, Serialize};

/// `[generator]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorSection {
    /// Samples per turn.
    pub batch: usize,
    /// Peak learning rate of the cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up, of generator and fake score.
    pub warmup_steps: usize,
    /// Decay of the parameters' moving average (0: none, as in DMD and DMD2).
    pub ema_decay: f64,
    /// Weights to start from instead of the teacher's: an earlier run's `unet_one_step` file (DMD2's second
    /// stages load weights alone, with fresh optimisers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The generator's timesteps, descending: one for a generator of one step (by default the noisiest, as in DMD;
    /// DMD2's one-step SDXL has 399), several for one of several steps (DMD2: 999, 749, 499, 249).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timesteps: Vec<usize>,
    /// Micro-batches per update, of `batch` samples each: gradients are averaged over them.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Micro-batches computed side by side on a CPU's threads; small networks train faster so. Each holds its own
    /// activations.
    #[serde(default = "one")]
    pub parallel: usize,
    /// Compute activations of element-wise operations again in the backward pass instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
}

fn one() -> usize {
    1
}

/// `[fake]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FakeSection {
    /// Constant learning rate after the warm-up.
    pub learning_rate: f64,
    /// The parameterisation whose squared error is the loss (DMD and DMD2: the teacher's own,
    /// `epsilon`, which is also the default; see `diffusion.loss` of a teacher).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Prediction>,
    /// Updates per generator update (DMD: 1; DMD2: 5 to 10).
    pub steps_per_generator_step: usize,
}

/// `[matching]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchingSection {
    /// Lowest timestep the samples are diffused to (DMD: 20 of 1000).
    pub first_timestep: usize,
    /// Highest timestep (DMD: 980 of 1000).
    pub last_timestep: usize,
    /// How the difference of the predictions is weighted.
    #[serde(default)]
    pub weighting: Weighting,
}

/// `[adversarial]` of a distillation: DMD2's term on real samples. Left out, there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversarialSection {
    /// Weight in the generator's loss (DMD2: 1e-3 for Stable Diffusion).
    pub generator_weight: f64,
    /// Weight in the fake score's loss (DMD2: 1e-2).
    pub critic_weight: f64,
    /// Real pictures, encoded once.
    pub reals: usize,
    /// The noisiest timestep at which the critic sees samples; without it the schedule's last (DMD2 for latents).
    /// Samples that differ in their details alone are told apart at low noise only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_timestep: Option<usize>,
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
    pub(crate) fn dtype(self) -> FloatDType {
        match self {
            Self::Single => FloatDType::F32,
            Self::Half => FloatDType::F16,
            Self::Brain => FloatDType::BF16,
        }
    }
}
