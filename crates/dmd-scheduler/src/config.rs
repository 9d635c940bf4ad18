use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::{Denoiser, Prediction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::beta::{Betas, TerminalSignal};
use crate::method::Method;
use crate::options::{KNOWN, Options};
use crate::{BetaSchedule, DiscreteSchedule, Error, Sampler, Spacing};

/// `scheduler/scheduler_config.json` of a diffusers folder: a noise schedule, and the sampler that walks it.
///
/// A value that exists is valid: the schedule is parsed at once, and an option that is not supported or has a wrong
/// type is an error with its key. The sampler's own options are parsed at once, too, but refused only by [`Self::walk`]:
/// a folder of an unknown sampler can be walked by [another](Self::with_sampler). The file's text is kept and written
/// back unchanged, with the keys of other programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct SchedulerConfig {
    raw: Map<String, Value>,
    class_name: String,
    betas: Betas,
    prediction: Prediction,
    pub(crate) spacing: Option<Spacing>,
    pub(crate) steps_offset: usize,
    pub(crate) method: Result<Method, Error>,
}

impl TryFrom<Map<String, Value>> for SchedulerConfig {
    type Error = Error;

    fn try_from(raw: Map<String, Value>) -> Result<Self, Error> {
        let options = Options(&raw);
        let class_name =
            options.text("_class_name")?.ok_or_else(|| options.refused("_class_name", "name a scheduler"))?;
        let sampler = Sampler::ALL.into_iter().find(|sampler| sampler.class_name() == class_name);
        let betas = Betas::parse(options, sampler)?;
        let spacings =
            [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
        let predictions = [
            ("epsilon", Prediction::Epsilon),
            ("sample", Prediction::Sample),
            ("v_prediction", Prediction::Velocity),
        ];
        let prediction = options.choice("prediction_type", &predictions)?.unwrap_or(Prediction::Epsilon);
        if betas.signal != TerminalSignal::Kept && prediction == Prediction::Epsilon {
            let hint =
                "predicted noise says nothing about a sample without signal; it goes with v_prediction";
            return Err(options.refused("rescale_betas_zero_snr", hint));
        }
        let steps_offset = options.count("steps_offset", 0)?;
        if steps_offset >= betas.count {
            return Err(options.refused("steps_offset", "the schedule ends before it"));
        }
        Ok(Self {
            class_name: class_name.to_owned(),
            betas,
            prediction,
            spacing: options.choice("timestep_spacing", &spacings)?,
            steps_offset,
            method: match sampler {
                Some(sampler) => Method::parse(sampler, options),
                None => Err(Error::UnknownSampler { class: class_name.to_owned() }),
            },
            raw,
        })
    }
}

impl From<SchedulerConfig> for Map<String, Value> {
    fn from(config: SchedulerConfig) -> Self {
        config.raw
    }
}

impl SchedulerConfig {
    /// Stable Diffusion 1.5's schedule with DDIM.
    ///
    /// # Panics
    ///
    /// Never: its options are supported.
    pub fn stable_diffusion() -> Self {
        let Value::Object(raw) = json!({
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "set_alpha_to_one": false,
            "clip_sample": false,
            "skip_prk_steps": true,
        }) else {
            unreachable!("the macro was given an object");
        };
        Self::try_from(raw).expect("every option above is supported")
    }

    /// The same configuration with one option changed.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the schedule cannot have this value.
    pub fn with_option(&self, key: &str, value: impl Into<Value>) -> Result<Self, Error> {
        let mut raw = self.raw.clone();
        raw.insert(key.to_owned(), value.into());
        Self::try_from(raw)
    }

    /// What diffusers' `StableDiffusionPipeline` makes of a scheduler: `steps_offset` is 1 and `clip_sample` false,
    /// whatever the file says or leaves out. PNDM skips its Runge-Kutta steps where the file does not say otherwise, as
    /// in every published Stable Diffusion. Returns what was changed from what the file states, one sentence each.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when a schedule of two timesteps has no room for the offset.
    pub fn for_stable_diffusion(self) -> Result<(Self, Vec<String>), Error> {
        let options = Options(&self.raw);
        let mut changes = Vec::new();
        // An offset changes leading timesteps alone.
        if self.steps_offset != 1 && self.own_spacing() == Spacing::Leading {
            changes.push(format!(
                "the scheduler's steps_offset is {}; 1 is used, as diffusers' StableDiffusionPipeline does",
                self.steps_offset
            ));
        }
        if options.flag("clip_sample", false)? {
            let sentence = "the scheduler's clip_sample is true; false is used, as diffusers' StableDiffusionPipeline does";
            changes.push(sentence.to_owned());
        }
        let mut raw = self.raw.clone();
        raw.insert("steps_offset".to_owned(), 1.into());
        raw.insert("clip_sample".to_owned(), false.into());
        if !options.is_stated("skip_prk_steps") {
            raw.insert("skip_prk_steps".to_owned(), true.into());
        }
        Ok((Self::try_from(raw)?, changes))
    }

    /// Keys of the file that no scheduler has: misspelled, or of another program. They have no effect.
    pub fn ignored(&self) -> Vec<&str> {
        let keys = self.raw.keys().map(String::as_str);
        keys.filter(|key| !key.starts_with('_') && !KNOWN.contains(key)).collect()
    }

    /// The scheduler's class in diffusers.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// The sampler that the configuration's class names.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSampler`] for any other class; [`Error::Unsupported`] for an option of the sampler that is not
    /// supported.
    pub fn sampler(&self) -> Result<Sampler, Error> {
        self.method.as_ref().map(|method| method.sampler).map_err(Clone::clone)
    }

    /// The same schedule walked by another sampler, as diffusers' `from_config` makes it: options that the file states
    /// stay, those it leaves out take the new sampler's defaults, and options of the former sampler alone do not count.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when the schedule's options do not go with the sampler.
    pub fn with_sampler(&self, sampler: Sampler) -> Result<Self, Error> {
        self.with_option("_class_name", sampler.class_name())
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// Number of timesteps.
    pub fn count(&self) -> usize {
        self.betas.count
    }

    /// The table of noise levels.
    pub fn schedule(&self) -> DiscreteSchedule {
        self.betas.table()
    }

    pub(crate) fn is_cosine(&self) -> bool {
        self.betas.schedule == BetaSchedule::SquaredCosine
    }

    /// How the timesteps are spread; diffusers' default where the file does not say.
    pub(crate) fn own_spacing(&self) -> Spacing {
        let default = self.sampler().map_or(Spacing::Leading, Sampler::default_spacing);
        self.spacing.unwrap_or(default)
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
            let hint =
                "it draws noise in every step, and this walk must be deterministic; choose DDIMScheduler";
            return Err(Options(&self.raw).refused("_class_name", hint));
        }
        let walk = self.walk(steps)?;
        let none = z.zeros_like();
        Ok(walk.run(denoiser, walk.start(z), condition, &mut || none.clone(), on_step))
    }
}
