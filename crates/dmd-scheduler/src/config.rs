use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::{Denoiser, Prediction};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::beta::without_terminal_signal;
use crate::{BetaSchedule, DiscreteSchedule, Error, Sampler, Spacing};

/// `scheduler/scheduler_config.json` of a diffusers folder, for the schedulers this crate walks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// The sampler's class in diffusers, see [`Sampler::class_name`].
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
    /// How the sampler's timesteps are spread; `None` is the sampler's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<Spacing>,
    /// Whether the last step goes to a level without noise, or to that of timestep 0; `None` is the
    /// sampler's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
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

/// Most timesteps of a schedule: a hundred times as many as any published one.
const MAX_TIMESTEPS: usize = 100_000;

fn epsilon() -> String {
    "epsilon".to_owned()
}

fn yes() -> bool {
    true
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
            timestep_spacing: Some(Spacing::Leading),
            set_alpha_to_one: Some(false),
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
        if !(2..=MAX_TIMESTEPS).contains(&self.num_train_timesteps) {
            let count = self.num_train_timesteps.into();
            return refuse("num_train_timesteps", &count, &format!("a schedule has 2 to {MAX_TIMESTEPS}"));
        }
        if self.steps_offset >= self.num_train_timesteps {
            return refuse("steps_offset", &self.steps_offset.into(), "the schedule ends before it");
        }
        let (start, end) = (self.beta_start, self.beta_end);
        // The first level's variance is beta_start, taken from 1 in double precision: less is rounded to no noise at all.
        if !(start >= 1e-10 && end < 1.0 && start <= end) {
            return refuse(
                "beta_start, beta_end",
                &vec![start, end].into(),
                "1e-10 <= beta_start <= beta_end < 1 is",
            );
        }
        if self.clip_sample {
            return refuse("clip_sample", &true.into(), "latents are not clamped; set it to false");
        }
        if !self.skip_prk_steps {
            return refuse("skip_prk_steps", &false.into(), "set it to true");
        }
        for key in [
            "trained_betas",
            "thresholding",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "sigma_min",
            "sigma_max",
            "shift_terminal",
            "solver_p",
        ] {
            match self.other.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(value) => return refuse(key, value, "leave it out"),
            }
        }
        for (key, neutral) in [("interpolation_type", "linear"), ("timestep_type", "discrete")] {
            match self.other.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if value == neutral => {}
                Some(value) => return refuse(key, value, &format!("{neutral} is")),
            }
        }
        match self.other.get("disable_corrector") {
            None | Some(Value::Null) => {}
            Some(Value::Array(steps)) if steps.is_empty() => {}
            Some(value) => return refuse("disable_corrector", value, "leave it empty"),
        }
        if self.flag("rescale_betas_zero_snr") && self.prediction()? == Prediction::Epsilon {
            let hint = "noise tells nothing of a sample without signal; it goes with v_prediction";
            return refuse("rescale_betas_zero_snr", &true.into(), hint);
        }
        Ok(())
    }

    /// The sampler that the configuration's class names.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for any other class.
    pub fn sampler(&self) -> Result<Sampler, Error> {
        let found = Sampler::ALL.into_iter().find(|sampler| sampler.class_name() == self.class_name);
        found.ok_or_else(|| Error::Unsupported {
            key: "_class_name".to_owned(),
            value: self.class_name.clone(),
            hint: format!("known are {}", Sampler::ALL.map(Sampler::class_name).join(", ")),
        })
    }

    /// The same schedule walked by another sampler, as diffusers' `from_config` makes it: options
    /// that the file states stay, those it leaves out take the new sampler's defaults.
    pub fn with_sampler(&self, sampler: Sampler) -> Self {
        let mut other = self.clone();
        sampler.class_name().clone_into(&mut other.class_name);
        // Two samplers have an option of this name, with different words.
        let foreign = match sampler {
            Sampler::DpmPlusPlus => ["bh1", "bh2"],
            _ => ["midpoint", "heun"],
        };
        if other.other.get("solver_type").and_then(Value::as_str).is_some_and(|t| foreign.contains(&t)) {
            other.other.remove("solver_type");
        }
        other
    }

    /// How the sampler's timesteps are spread.
    ///
    /// # Errors
    ///
    /// As [`Self::sampler`].
    pub fn spacing(&self) -> Result<Spacing, Error> {
        Ok(self.timestep_spacing.unwrap_or(self.sampler()?.default_spacing()))
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
            "squaredcos_cap_v2" => Ok(BetaSchedule::SquaredCosine),
            other => Err(Error::Unsupported {
                key: "beta_schedule".to_owned(),
                value: other.to_owned(),
                hint: "linear, scaled_linear and squaredcos_cap_v2 are".to_owned(),
            }),
        }
    }

    /// The table of noise levels.
    pub fn schedule(&self) -> DiscreteSchedule {
        let betas = self.betas().unwrap_or(BetaSchedule::ScaledLinear);
        let mut products = betas.alphas_cumprod(self.beta_start, self.beta_end, self.num_train_timesteps);
        if self.flag("rescale_betas_zero_snr") {
            products = without_terminal_signal(&products);
            if self.sampler().is_ok_and(Sampler::divides_by_alpha)
                && let Some(last) = products.last_mut()
            {
                *last = 2.0_f64.powi(-24); // diffusers' stand-in for 0 where sigma / alpha is taken
            }
        }
        DiscreteSchedule::from_products(products)
    }

    /// `steps` whole timesteps of the schedule as the configuration spreads them, descending.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`] when the schedule has not as many.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        self.spacing()?.timesteps(steps, self.num_train_timesteps, self.steps_offset)
    }

    /// Walks unit noise `z` to a clean sample with the configured sampler, which must be
    /// deterministic; `None` when `on_step` breaks off (see [`Walk::run`](crate::Walk::run)).
    ///
    /// # Errors
    ///
    /// As [`Self::walk`]; [`Error::Unsupported`] for a sampler that draws noise of its own.
    pub fn sample<D: Denoiser>(
        &self,
        denoiser: &D,
        steps: usize,
        z: Tensor<4>,
        condition: &D::Condition,
        on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Option<Tensor<4>>, Error> {
        if self.sampler()?.draws_noise() {
            return Err(Error::Unsupported {
                key: "_class_name".to_owned(),
                value: self.class_name.clone(),
                hint: "it draws noise in every step, and a deterministic walk is asked for".to_owned(),
            });
        }
        let walk = self.walk(steps)?;
        let shape = z.dims();
        let device = z.device();
        let mut none = || Tensor::zeros(shape, &device);
        Ok(walk.run(denoiser, walk.start(z), condition, &mut none, on_step))
    }
}
