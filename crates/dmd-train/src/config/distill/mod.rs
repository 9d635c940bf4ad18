mod cache;
mod check;
mod evaluation;
mod sections;

use std::path::{Path, PathBuf};

use dmd_data::Dataset;
use dmd_model::ModelFolder;
use serde::{Deserialize, Serialize};

pub use self::cache::{CacheSection, LatentPrecision};
pub use self::evaluation::EvaluationSection;
use self::sections::{AdversarialSection, FakeSection, GeneratorSection, MatchingSection};
pub use self::sections::{FrozenPrecision, PerceptualSection, Schedule, TrainedPrecision};
pub(crate) use self::sections::{Measure, ObjectiveSection, RegressionSection};
use super::{DataSection, from_file, require};
use crate::fingerprint::{self, Fingerprint};
use crate::run::Pace;
use crate::trained::critic_beside;
use crate::{AdamWConfig, Error, LoraSection};

/// The configuration of `dmd distill`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Seed of every random number.
    #[serde(default)]
    pub seed: u64,
    /// The teacher: a model folder in diffusers' layout, or a single file.
    pub teacher: PathBuf,
    /// Folder of the run: checkpoints, metrics, grids, pairs, and at the end what was trained.
    pub output: PathBuf,
    /// Where captions come from, and real pictures if a term needs them.
    pub data: DataSection,
    /// Where latents and features of captions are stored, so that they are computed once. Without it every start computes
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSection>,
    /// Guidance of the teacher, in pairs and in the matching term. 1 is no guidance. DMD2 uses 1.75 for Stable Diffusion
    /// 1.5 and 8 for SDXL.
    #[serde(default = "guidance_scale")]
    pub guidance_scale: f64,
    /// Float type of the teacher's network in the matching term: f32, f16 or bf16.
    #[serde(default)]
    pub teacher_precision: FrozenPrecision,
    /// Float type in which generator and fake score compute: f32 or bf16. Trained weights, their gradients and moments
    /// are always f32. With `[lora]` the frozen network is kept in this type.
    #[serde(default)]
    pub precision: TrainedPrecision,
    /// Train low-rank updates instead of whole networks.
    pub lora: Option<LoraSection>,
    /// The generator's training.
    #[serde(default)]
    pub generator: GeneratorSection,
    /// The fake score's training.
    #[serde(default)]
    pub fake: FakeSection,
    /// The matching term.
    #[serde(default)]
    pub matching: MatchingSection,
    /// Constants of both optimisers.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// DMD's regression on pairs. Without this section the loss has no such term.
    pub regression: Option<RegressionSection>,
    /// DMD2's adversarial term. Without this section the loss has no such term.
    pub adversarial: Option<AdversarialSection>,
    /// Measure the generator while it is trained.
    pub evaluation: Option<EvaluationSection>,
    /// Length of the training, and how often it logs and saves.
    pub pace: Pace,
}

fn guidance_scale() -> f64 {
    1.75
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
const FREE: [&str; 28] = [
    "output",
    "teacher",
    "teacher_precision",
    "precision",
    "data",
    "cache.path",
    "evaluation",
    "pace",
    "generator.batch",
    "generator.learning_rate",
    "generator.schedule",
    "generator.warmup_steps",
    "generator.ema_decay",
    "generator.ema_on_host",
    "generator.accumulate",
    "generator.parallel",
    "generator.recompute",
    "generator.start",
    "fake.learning_rate",
    "fake.schedule",
    "fake.start",
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
    /// [`Error::ReadConfig`], [`Error::ParseConfig`] naming line and key, or [`Error::Option`] naming the first
    /// option whose value is not allowed.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let config: Self = from_file(path)?;
        config.check()?;
        Ok(config)
    }

    /// The generator's timesteps for a schedule that ends at `last`, the noisiest first.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when they do not descend from `last` at most.
    pub(crate) fn timesteps(&self, last: usize) -> Result<Vec<usize>, Error> {
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
    ///
    /// # Errors
    ///
    /// [`Error::Option`] naming the first one beyond it.
    pub fn check_schedule(&self, last: usize) -> Result<(), Error> {
        self.timesteps(last)?;
        let within = "at most the last timestep of the teacher's schedule";
        let matching = self.matching.last_timestep;
        require(matching <= last, "matching.last_timestep", format!("{matching} of {last}"), within)?;
        if let ObjectiveSection::DecoupledGuidance { last_timestep, .. } = self.matching.objective {
            let value = format!("guidance at {last_timestep} of {last}");
            require(last_timestep <= last, "matching.objective", value, within)?;
        }
        let critic = self.adversarial.as_ref().and_then(|section| section.last_timestep).unwrap_or(0);
        require(critic <= last, "adversarial.last_timestep", format!("{critic} of {last}"), within)
    }

    /// What the run and its pairs depend on. The teacher's files are read whole for it.
    ///
    /// # Errors
    ///
    /// When a file of the teacher cannot be read.
    pub fn fingerprints(&self, dataset: &dyn Dataset) -> Result<Fingerprints, Error> {
        let teacher = fingerprint::of_files(&ModelFolder::new(&self.teacher).teacher_files())?;
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
        let critic = self.fake.start.as_deref().and_then(critic_beside);
        let named = [
            ("generator.start", self.generator.start.as_ref()),
            ("fake.start", self.fake.start.as_ref()),
            ("the critic beside fake.start", critic.as_ref()),
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
}
