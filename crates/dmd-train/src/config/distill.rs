use std::path::{Path, PathBuf};

use dmd_core::Prediction;
use dmd_core::matching::Weighting;
use serde::{Deserialize, Serialize};

use super::{DataSection, from_file, require};
use crate::Error;
use crate::run::Pace;

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
}

/// `[fake]` of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FakeSection {
    /// Constant learning rate after the warm-up.
    pub learning_rate: f64,
    /// The parameterisation whose squared error is the loss (DMD and DMD2: the teacher's own,
    /// `epsilon`; see `diffusion.loss` of a teacher).
    pub loss: Prediction,
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
        let rate = |v: f64| v.is_finite() && v > 0.0;
        require(rate(g.learning_rate), "generator.learning_rate", g.learning_rate, "a positive number")?;
        require(rate(f.learning_rate), "fake.learning_rate", f.learning_rate, "a positive number")?;
        require((0.0..1.0).contains(&g.ema_decay), "generator.ema_decay", g.ema_decay, "between 0 and 1")?;
        let scale = self.guidance_scale;
        require(scale.is_finite() && scale >= 1.0, "guidance_scale", scale, "at least 1")?;
        require(
            m.first_timestep <= m.last_timestep,
            "matching.first_timestep",
            m.first_timestep,
            "at most matching.last_timestep",
        )?;
        require(m.last_timestep < 1000, "matching.last_timestep", m.last_timestep, "below 1000")?;
        if let Some(r) = &self.regression {
            require(r.pairs > 0, "regression.pairs", r.pairs, positive)?;
            require(r.sampling_steps > 0, "regression.sampling_steps", r.sampling_steps, positive)?;
            require(r.weight.is_finite() && r.weight >= 0.0, "regression.weight", r.weight, "0 or more")?;
        }
        if let Some(a) = &self.adversarial {
            let weight = |value: f64| value.is_finite() && value >= 0.0;
            require(
                weight(a.generator_weight),
                "adversarial.generator_weight",
                a.generator_weight,
                "at least 0",
            )?;
            require(weight(a.critic_weight), "adversarial.critic_weight", a.critic_weight, "at least 0")?;
            require(a.reals > 0, "adversarial.reals", a.reals, positive)?;
        }
        Ok(())
    }
}
