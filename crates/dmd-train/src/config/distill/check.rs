//! What an option of a distillation may be.

use dmd_core::matching::Weighting;
use dmd_eval::Backbone;

use super::DistillConfig;
use super::evaluation::EvaluationSection;
use super::sections::{
    AdversarialSection, FrozenPrecision, Measure, ObjectiveSection, PerceptualSection, RegressionSection,
};
use crate::Error;
use crate::config::{
    check_optimizer, require, require_count, require_not_negative, require_positive, require_share,
    require_times,
};

impl DistillConfig {
    /// An error for the first option whose value is not allowed.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (g, f, m) = (&self.generator, &self.fake, &self.matching);
        require_count("generator.batch", g.batch)?;
        require_count("fake.steps_per_generator_step", f.steps_per_generator_step)?;
        require_count("generator.parallel", g.parallel)?;
        require_count("generator.accumulate", g.accumulate)?;
        require(
            g.timesteps.len() < 2 || self.regression.is_none(),
            "generator.timesteps",
            format!("{:?}", g.timesteps),
            "one where there is a [regression]: pairs belong to generators of one step",
        )?;
        require(
            g.batch > 1 || self.regression.is_none(),
            "generator.batch",
            g.batch,
            "at least 2 where there is a [regression]: half of a batch is pairs, the other half fresh noise",
        )?;
        require_positive("generator.learning_rate", g.learning_rate)?;
        require_positive("fake.learning_rate", f.learning_rate)?;
        require_share("generator.ema_decay", g.ema_decay)?;
        require_share("fake.alignment", f.alignment)?;
        require(
            f.alignment == 0.0 || self.lora.is_none(),
            "fake.alignment",
            f.alignment,
            "0 with [lora]: two low-rank updates are not averaged by their factors",
        )?;
        let scale = self.guidance_scale;
        require(scale.is_finite() && scale >= 1.0, "guidance_scale", scale, "at least 1")?;
        require(
            m.first_timestep <= m.last_timestep,
            "matching.first_timestep",
            m.first_timestep,
            "at most matching.last_timestep",
        )?;
        if let Weighting::NormalisedAbove { floor } = m.weighting {
            require_positive("matching.weighting", floor)?;
        }
        self.check_objective()?;
        require_times("matching.times", m.times)?;
        require_times("fake.times", f.times)?;
        check_optimizer(&self.optimizer)?;
        if let Some(lora) = &self.lora {
            require_count("lora.rank", lora.rank)?;
            require_positive("lora.alpha", lora.alpha())?;
            require_count("lora.layers", lora.layers.len())?;
        }
        self.regression.as_ref().map_or(Ok(()), RegressionSection::check)?;
        self.adversarial.as_ref().map_or(Ok(()), AdversarialSection::check)?;
        self.evaluation.as_ref().map_or(Ok(()), EvaluationSection::check)
    }

    fn check_objective(&self) -> Result<(), Error> {
        let key = "matching.objective";
        match self.matching.objective {
            ObjectiveSection::DistributionMatching => Ok(()),
            ObjectiveSection::FDivergence(_) => {
                let must = "with an [adversarial] section, whose critic estimates the ratio of the densities";
                require(self.adversarial.is_some(), key, "f_divergence", must)?;
                let must =
                    "with a generator.batch of at least 2: the weights are divided by their mean over it";
                require(self.generator.batch > 1, key, "f_divergence", must)?;
                let seen = self.adversarial.as_ref().and_then(|section| section.last_timestep);
                let all = seen.is_none_or(|seen| seen >= self.matching.last_timestep);
                let must = "with an adversarial.last_timestep of at least matching.last_timestep: the critic must have seen \
                            the levels at which it is asked";
                require(all, key, "f_divergence", must)
            }
            ObjectiveSection::DecoupledGuidance { first_timestep, last_timestep } => {
                let order = format!("{first_timestep} to {last_timestep}");
                require(
                    first_timestep <= last_timestep,
                    key,
                    order,
                    "from a lower timestep to a higher one",
                )?;
                let must = "with a guidance_scale above 1: without guidance there is nothing to decouple";
                require(self.guidance_scale > 1.0, key, "decoupled_guidance", must)?;
                let must = "with a normalised matching.weighting, which it has by itself";
                let normalised = self.matching.weighting.floor().is_some();
                require(normalised, key, "decoupled_guidance", must)
            }
            ObjectiveSection::ScoreIdentity { alpha } => {
                require(
                    alpha.is_finite() && alpha >= 0.0,
                    key,
                    format!("score_identity of {alpha}"),
                    "at least 0",
                )?;
                let must = "with a teacher_precision of f32 or bf16: its small gradients vanish in f16";
                let fits = self.teacher_precision != FrozenPrecision::Half;
                require(fits, key, "score_identity", must)?;
                let must = "without another matching.weighting: it has its own";
                let own = self.matching.weighting == Weighting::Normalised;
                require(own, key, "score_identity", must)
            }
        }
    }
}

impl RegressionSection {
    fn check(&self) -> Result<(), Error> {
        require_count("regression.pairs", self.pairs)?;
        require_count("regression.sampling_steps", self.sampling_steps)?;
        require_not_negative("regression.weight", self.weight)?;
        if let Some(PerceptualSection { network, size: Some(size), .. }) = &self.perceptual {
            // Below these sizes a network's last feature map has no pixel.
            let (least, must) = match network {
                Backbone::Vgg16 => (16, "at least 16 for this network"),
                Backbone::AlexNet => (31, "at least 31 for this network"),
            };
            require(*size >= least, "regression.perceptual.size", size, must)?;
        }
        if let Measure::PseudoHuber { c } = self.measure {
            require_positive("regression.measure", c)?;
            require(
                self.perceptual.is_none(),
                "regression.measure",
                "pseudo_huber",
                "left out beside regression.perceptual, which is a measure itself",
            )?;
        }
        Ok(())
    }
}

impl AdversarialSection {
    fn check(&self) -> Result<(), Error> {
        require_not_negative("adversarial.generator_weight", self.generator_weight)?;
        require_not_negative("adversarial.critic_weight", self.critic_weight)?;
        require_count("adversarial.reals", self.reals)
    }
}
