use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::{Denoiser, Prediction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BetaSchedule, DiscreteSchedule, Error, Spacing, ddim, pndm};

/// `scheduler/scheduler_config.json` of a diffusers folder, for the schedulers this crate walks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// `DDIMScheduler` or `PNDMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Number of timesteps.
    pub num_train_timesteps: usize,
    /// Variance of the first forward step.
    pub beta_start: f64,
    /// Variance of the last forward step.
    pub beta_end: f64,
    /// How the variance grows.
    pub beta_schedule: String,
    /// What the network predicts: `epsilon`, `sample` or `v_prediction`.
    #[serde(default = "epsilon")]
    pub prediction_type: String,
    /// Added to every timestep of leading spacing.
    #[serde(default)]
    pub steps_offset: usize,
    /// How the sampler's timesteps are spread.
    #[serde(default)]
    pub timestep_spacing: Spacing,
    /// Whether the last step goes to a level without noise, or to that of timestep 0.
    #[serde(default)]
    pub set_alpha_to_one: bool,
    /// Whether predicted samples are clamped; must be false, as it is for latents.
    #[serde(default)]
    pub clip_sample: bool,
    /// PNDM without its Runge–Kutta start; must be true, as in Stable Diffusion.
    #[serde(default = "yes")]
    pub skip_prk_steps: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn epsilon() -> String {
    "epsilon".to_owned()
}

fn yes() -> bool {
    true
}

/// A multi-step sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// See [`ddim`].
    Ddim,
    /// See [`pndm`].
    Pndm,
}

impl SchedulerConfig {
    /// Stable Diffusion 1.5's schedule with DDIM.
    pub fn stable_diffusion() -> Self {
        Self {
            class_name: "DDIMScheduler".to_owned(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".to_owned(),
            prediction_type: epsilon(),
            steps_offset: 1,
            timestep_spacing: Spacing::Leading,
            set_alpha_to_one: false,
            clip_sample: false,
            skip_prk_steps: true,
            other: BTreeMap::new(),
        }
    }

    /// Checks that every option is one this implementation computes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that is not.
    pub fn validate(&self) -> Result<(), Error> {
        self.sampler()?;
        self.prediction()?;
        self.betas()?;
        let refuse = |key: &str, value: &Value, hint: &str| {
            Err(Error::Unsupported { key: key.to_owned(), value: value.to_string(), hint: hint.to_owned() })
        };
        if self.num_train_timesteps < 2 {
            let count = self.num_train_timesteps.into();
            return refuse("num_train_timesteps", &count, "a schedule has at least 2");
        }
        if self.clip_sample {
            return refuse("clip_sample", &true.into(), "latents are not clamped; set it to false");
        }
        if !self.skip_prk_steps {
            return refuse("skip_prk_steps", &false.into(), "set it to true");
        }
        for key in ["trained_betas", "thresholding", "rescale_betas_zero_snr"] {
            match self.other.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(value) => return refuse(key, value, "only the plain schedule is"),
            }
        }
        Ok(())
    }

    /// The sampler that the configuration's class names.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for any other class.
    pub fn sampler(&self) -> Result<Sampler, Error> {
        match self.class_name.as_str() {
            "DDIMScheduler" => Ok(Sampler::Ddim),
            "PNDMScheduler" => Ok(Sampler::Pndm),
            other => Err(Error::Unsupported {
                key: "_class_name".to_owned(),
                value: other.to_owned(),
                hint: "DDIMScheduler and PNDMScheduler are".to_owned(),
            }),
        }
    }

    /// What the network predicts.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an unknown prediction type.
    pub fn prediction(&self) -> Result<Prediction, Error> {
        match self.prediction_type.as_str() {
            "epsilon" => Ok(Prediction::Epsilon),
            "sample" => Ok(Prediction::Sample),
            "v_prediction" => Ok(Prediction::Velocity),
            other => Err(Error::Unsupported {
                key: "prediction_type".to_owned(),
                value: other.to_owned(),
                hint: "epsilon, sample and v_prediction are".to_owned(),
            }),
        }
    }

    fn betas(&self) -> Result<BetaSchedule, Error> {
        match self.beta_schedule.as_str() {
            "linear" => Ok(BetaSchedule::Linear),
            "scaled_linear" => Ok(BetaSchedule::ScaledLinear),
            other => Err(Error::Unsupported {
                key: "beta_schedule".to_owned(),
                value: other.to_owned(),
                hint: "linear and scaled_linear are".to_owned(),
            }),
        }
    }

    /// The table of noise levels.
    pub fn schedule(&self) -> DiscreteSchedule {
        let betas = self.betas().unwrap_or(BetaSchedule::ScaledLinear);
        DiscreteSchedule::new(betas, self.beta_start, self.beta_end, self.num_train_timesteps)
    }

    /// The sampler's timesteps, descending.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`] when the schedule has not as many.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        self.timestep_spacing.timesteps(steps, self.num_train_timesteps, self.steps_offset)
    }

    /// `(alpha, sigma)` where the last step ends.
    pub fn final_alpha_sigma(&self, schedule: &DiscreteSchedule) -> (f64, f64) {
        if self.set_alpha_to_one { (1.0, 0.0) } else { schedule.alpha_sigma(0) }
    }

    /// Walks `x` from pure noise to a clean sample with the configured sampler; `None` when
    /// `on_step` breaks off (see [`ddim::sample`]).
    ///
    /// # Errors
    ///
    /// As [`Self::validate`] and [`Self::timesteps`].
    pub fn sample<D: Denoiser>(
        &self,
        denoiser: &D,
        steps: usize,
        x: Tensor<4>,
        condition: &D::Condition,
        on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Option<Tensor<4>>, Error> {
        self.validate()?;
        match self.sampler()? {
            Sampler::Ddim => ddim::sample(denoiser, self, steps, x, condition, on_step),
            Sampler::Pndm => pndm::sample(denoiser, self, steps, x, condition, on_step),
        }
    }
}
