use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use dmd_core::Prediction;
use dmd_core::matching::Weighting;
use dmd_data::Dataset;
use serde::{Deserialize, Serialize};

use super::{DataSection, from_file, is_not_negative, is_positive, require};
use crate::Error;
use crate::fingerprint::{self, Fingerprint};
use crate::run::Pace;
use dmd_eval::Backbone;

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
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::Single => FloatDType::F32,
            Self::Half => FloatDType::F16,
            Self::Brain => FloatDType::BF16,
        }
    }
}

/// The configuration of `dmd distill`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Seed of every random number.
    pub seed: u64,
    /// Folder of the teacher's model.
    pub teacher: PathBuf,
    /// Folder of the run: checkpoints, metrics, grids, pairs, and at the end `unet_one_step/`.
    pub output: PathBuf,
    /// Where captions come from.
    pub data: DataSection,
    /// Guidance of the teacher, in pairs and in the matching term.
    pub guidance_scale: f64,
    /// Float type of the teacher's network in the matching term: f32, f16 or bf16.
    #[serde(default)]
    pub teacher_precision: FrozenPrecision,
    /// The generator's training.
    pub generator: GeneratorSection,
    /// The fake score's training.
    pub fake: FakeSection,
    /// The matching term.
    pub matching: MatchingSection,
    /// The regression term.
    pub regression: Option<RegressionSection>,
    /// The adversarial term.
    pub adversarial: Option<AdversarialSection>,
    /// How long and how often.
    pub pace: Pace,
}

/// What artefacts of a distillation depend on.
#[derive(Debug, Clone)]
pub struct Fingerprints {
    /// A checkpoint.
    pub run: Fingerprint,
    /// The pairs of the regression term.
    pub pairs: Fingerprint,
}

/// Options that a resumed run may change: how long, how fast, on how much, and where. The teacher, the data and other
/// files are compared by their content.
const FREE: [&str; 21] = [
    "output",
    "teacher",
    "teacher_precision",
    "data",
    "pace",
    "generator.batch",
    "generator.learning_rate",
    "generator.warmup_steps",
    "generator.ema_decay",
    "generator.accumulate",
    "generator.parallel",
    "generator.recompute",
    "generator.start",
    "fake.learning_rate",
    "fake.steps_per_generator_step",
    "regression.pairs",
    "regression.warmup_steps",
    "regression.perceptual.trunk",
    "regression.perceptual.weightings",
    "regression.perceptual.taesd",
    "adversarial.reals",
];

impl DistillConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    ///
    /// As [`from_file`]; [`Error::Option`] naming the first option without sense.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        config.validate()?;
        Ok(config)
    }

    /// The generator's timesteps for a schedule that ends at `last`, the noisiest first.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when they do not descend from `last` at most.
    pub fn timesteps(&self, last: usize) -> Result<Vec<usize>, Error> {
        let listed = &self.generator.timesteps;
        if listed.is_empty() {
            return Ok(vec![last]);
        }
        let descends = listed.windows(2).all(|pair| pair[0] > pair[1]) && listed[0] <= last;
        require(
            descends,
            "generator.timesteps",
            format!("{listed:?}"),
            "in descending order, none beyond the schedule's last timestep",
        )?;
        Ok(listed.clone())
    }

    /// Checks timesteps against a teacher whose schedule ends at `last`.
    pub fn check_schedule(&self, last: usize) -> Result<(), Error> {
        self.timesteps(last)?;
        let within = "at most the last timestep of the teacher's schedule";
        let matching = self.matching.last_timestep;
        require(matching <= last, "matching.last_timestep", format!("{matching} of {last}"), within)?;
        let critic = self.adversarial.as_ref().and_then(|section| section.last_timestep).unwrap_or(0);
        require(critic <= last, "adversarial.last_timestep", format!("{critic} of {last}"), within)
    }

    /// What the run and its pairs depend on. The teacher's files are read whole for it.
    ///
    /// # Errors
    ///
    /// When a file of the teacher cannot be read.
    pub fn fingerprints(&self, dataset: &dyn Dataset) -> Result<Fingerprints, Error> {
        let parts = ["unet", "scheduler", "text_encoder", "tokenizer", "vae", "classes.json"];
        let teacher = fingerprint::of_files(&parts.map(|part| self.teacher.join(part)))?;
        let made_by = Fingerprint::new().with("teacher", teacher)?.with("data", dataset.fingerprint())?;
        let pairs = made_by.clone().with("seed", self.seed)?.with("guidance_scale", self.guidance_scale)?;
        let steps = self.regression.as_ref().map(|section| section.sampling_steps);
        Ok(Fingerprints {
            run: self.files()?.and(Fingerprint::new().with("", self)?.without(&FREE)).and(made_by),
            pairs: pairs.with("regression.sampling_steps", steps)?,
        })
    }

    /// The files that options name, by their content.
    fn files(&self) -> Result<Fingerprint, Error> {
        let perceptual = self.regression.as_ref().and_then(|section| section.perceptual.as_ref());
        let named = [
            ("generator.start", self.generator.start.as_ref()),
            ("regression.perceptual.trunk", perceptual.map(|section| &section.trunk)),
            ("regression.perceptual.weightings", perceptual.map(|section| &section.weightings)),
            ("regression.perceptual.taesd", perceptual.and_then(|section| section.taesd.as_ref())),
        ];
        let mut files = Fingerprint::new();
        for (name, path) in named {
            if let Some(path) = path {
                files = files.with(name, fingerprint::of_files(std::slice::from_ref(path))?)?;
            }
        }
        Ok(files)
    }

    fn validate(&self) -> Result<(), Error> {
        let (g, f, m) = (&self.generator, &self.fake, &self.matching);
        let positive = "at least 1";
        require(g.batch > 0, "generator.batch", g.batch, positive)?;
        require(
            f.steps_per_generator_step > 0,
            "fake.steps_per_generator_step",
            f.steps_per_generator_step,
            positive,
        )?;
        require(g.parallel > 0, "generator.parallel", g.parallel, positive)?;
        require(g.accumulate > 0, "generator.accumulate", g.accumulate, positive)?;
        require(
            g.timesteps.len() < 2 || self.regression.is_none(),
            "generator.timesteps",
            format!("{:?}", g.timesteps),
            "one where there is a [regression]: pairs belong to generators of one step",
        )?;
        require(
            is_positive(g.learning_rate),
            "generator.learning_rate",
            g.learning_rate,
            "a positive number",
        )?;
        require(is_positive(f.learning_rate), "fake.learning_rate", f.learning_rate, "a positive number")?;
        require((0.0..1.0).contains(&g.ema_decay), "generator.ema_decay", g.ema_decay, "between 0 and 1")?;
        let scale = self.guidance_scale;
        require(scale.is_finite() && scale >= 1.0, "guidance_scale", scale, "at least 1")?;
        require(
            m.first_timestep <= m.last_timestep,
            "matching.first_timestep",
            m.first_timestep,
            "at most matching.last_timestep",
        )?;
        if let Some(r) = &self.regression {
            require(r.pairs > 0, "regression.pairs", r.pairs, positive)?;
            require(r.sampling_steps > 0, "regression.sampling_steps", r.sampling_steps, positive)?;
            require(is_not_negative(r.weight), "regression.weight", r.weight, "0 or more")?;
            if let Some(PerceptualSection { network, size: Some(size), .. }) = &r.perceptual {
                // Below these sizes a network's last feature map has no pixel.
                let (least, must) = match network {
                    Backbone::Vgg16 => (16, "at least 16 for this network"),
                    Backbone::AlexNet => (31, "at least 31 for this network"),
                };
                require(*size >= least, "regression.perceptual.size", size, must)?;
            }
            if let Measure::PseudoHuber { c } = r.measure {
                require(is_positive(c), "regression.measure", c, "a positive number")?;
                require(
                    r.perceptual.is_none(),
                    "regression.measure",
                    "pseudo_huber",
                    "left out beside regression.perceptual, which is a measure itself",
                )?;
            }
        }
        if let Some(a) = &self.adversarial {
            require(
                is_not_negative(a.generator_weight),
                "adversarial.generator_weight",
                a.generator_weight,
                "at least 0",
            )?;
            require(
                is_not_negative(a.critic_weight),
                "adversarial.critic_weight",
                a.critic_weight,
                "at least 0",
            )?;
            require(a.reals > 0, "adversarial.reals", a.reals, positive)?;
        }
        Ok(())
    }
}
