//! A model's noise schedule, what its network predicts, and its samplers.

use std::ops::{ControlFlow, RangeInclusive};

use burn::tensor::Tensor;
use dmd_core::{Denoiser, Level, NoiseLevel, NoiseSchedule, Prediction};
use dmd_scheduler::{
    DiscreteSchedule, EdmConfig, FreshNoise, KarrasSchedule, Sampler, SchedulerConfig, Steps,
    TimeDistribution, TimeSampler, Walk, heun,
};

use crate::Error;

/// Number of noise levels in DMD's grid over an EDM schedule. A timestep of an EDM model is an index into this grid.
const GRID: usize = 1000;

/// A model's noise schedule with its sampler. Timesteps are whole numbers up to [`Self::last_timestep`], the noisiest.
#[derive(Debug, Clone)]
pub enum Noising {
    /// The schedule of Stable Diffusion: the signal shrinks as the noise grows, `alpha² + sigma² = 1`.
    Preserving {
        /// The contents of `scheduler_config.json`.
        scheduler: SchedulerConfig,
        /// The table of noise levels.
        schedule: DiscreteSchedule,
        /// What the network predicts.
        prediction: Prediction,
        /// Which options of the file were changed (see [`SchedulerConfig::for_stable_diffusion`]).
        changes: Vec<String>,
    },
    /// The schedule of EDM: the signal is not scaled, `alpha = 1`.
    Exploding {
        /// The contents of `scheduler_config.json`.
        edm: EdmConfig,
        /// The noise levels.
        schedule: KarrasSchedule,
        /// The sigma of each timestep, ascending.
        sigmas: Vec<f64>,
    },
}

impl Noising {
    /// The noise of a Stable Diffusion 1.x or 2.x model.
    ///
    /// # Errors
    ///
    /// When the schedule is too short for Stable Diffusion's offset.
    pub fn stable_diffusion(scheduler: SchedulerConfig) -> Result<Self, Error> {
        let (scheduler, changes) = scheduler.for_stable_diffusion()?;
        let (schedule, prediction) = (scheduler.schedule(), scheduler.prediction());
        Ok(Self::Preserving { scheduler, schedule, prediction, changes })
    }

    /// The noise of a model whose scheduler file is used unchanged.
    pub fn preserving(scheduler: SchedulerConfig) -> Self {
        let (schedule, prediction) = (scheduler.schedule(), scheduler.prediction());
        Self::Preserving { scheduler, schedule, prediction, changes: Vec::new() }
    }

    /// Notes for the user about the scheduler file, one sentence each: options that were changed, and unknown keys.
    pub fn notes(&self) -> Vec<String> {
        let Self::Preserving { scheduler, changes, .. } = self else { return Vec::new() };
        let mut notes = changes.clone();
        let ignored = scheduler.ignored();
        if !ignored.is_empty() {
            notes.push(format!("scheduler_config.json has keys without effect: {}", ignored.join(", ")));
        }
        notes
    }

    /// The noise of an EDM model.
    pub fn exploding(edm: EdmConfig) -> Self {
        let schedule = edm.schedule();
        Self::Exploding { sigmas: schedule.sigmas(GRID), edm, schedule }
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        match self {
            Self::Preserving { prediction, .. } => *prediction,
            Self::Exploding { edm, .. } => Prediction::Karras { sigma_data: edm.sigma_data() },
        }
    }

    /// Factor of the logarithm of sigma in the input of an EDM network ([`EdmConfig::log_factor`]). Other networks do
    /// not use it.
    pub(crate) fn log_factor(&self) -> f64 {
        match self {
            Self::Preserving { .. } => 0.25,
            Self::Exploding { edm, .. } => edm.log_factor(),
        }
    }

    /// The noisiest timestep.
    pub fn last_timestep(&self) -> usize {
        match self {
            Self::Preserving { schedule, .. } => schedule.count() - 1,
            Self::Exploding { sigmas, .. } => sigmas.len() - 1,
        }
    }

    /// The level of a timestep.
    ///
    /// # Panics
    ///
    /// If the timestep is beyond [`Self::last_timestep`].
    pub fn at(&self, timestep: usize) -> Level {
        match self {
            Self::Preserving { schedule, .. } => {
                let (alpha, sigma) = schedule.alpha_sigma(timestep);
                Level { t: timestep as f64, alpha, sigma }
            }
            Self::Exploding { sigmas, .. } => Level::of_sigma(sigmas[timestep]),
        }
    }

    /// Factor of unit noise for a generator whose first call is at a timestep.
    ///
    /// # Panics
    ///
    /// As [`Self::at`].
    pub fn noise_scale(&self, timestep: usize) -> f64 {
        match self {
            Self::Preserving { .. } => 1.0,
            // At the end of the grid the factor is sigma_max itself, without the rounding errors of the grid's
            // computation.
            Self::Exploding { edm, sigmas, .. } if timestep + 1 == sigmas.len() => edm.sigma_max(),
            Self::Exploding { sigmas, .. } => sigmas[timestep],
        }
    }

    /// Makes a sampler that draws times from `timesteps` uniformly.
    ///
    /// # Panics
    ///
    /// As [`Self::at`].
    pub fn times(&self, timesteps: RangeInclusive<usize>) -> TimeSampler {
        match self {
            Self::Preserving { .. } => TimeSampler::Timesteps(timesteps),
            Self::Exploding { sigmas, .. } => TimeSampler::Grid(sigmas[timesteps].to_vec()),
        }
    }

    /// Makes a sampler that draws times from `timesteps` with a distribution over all timesteps. For EDM a timestep is
    /// an index into the grid. The result is `None` if these timesteps have hardly any probability
    /// ([`TimeDistribution::among`]).
    ///
    /// # Panics
    ///
    /// As [`Self::at`].
    pub fn times_by(
        &self,
        timesteps: RangeInclusive<usize>,
        distribution: TimeDistribution,
    ) -> Option<TimeSampler> {
        if distribution.is_uniform() {
            return Some(self.times(timesteps));
        }
        let levels: Vec<Level> = (0..=self.last_timestep()).map(|t| self.at(t)).collect();
        distribution.among(&levels, timesteps)
    }

    /// Plans a teacher's network calls from noise to samples. `sampler` replaces the configured one.
    ///
    /// # Errors
    ///
    /// When the sampler cannot take these steps, or is not possible for this model.
    pub fn plan(&self, steps: &Steps, sampler: Option<Sampler>) -> Result<Plan, Error> {
        match self {
            Self::Preserving { scheduler, .. } => Ok(Plan::Walk(match sampler {
                Some(sampler) => scheduler.with_sampler(sampler)?.walk(steps.clone())?,
                None => scheduler.walk(steps.clone())?,
            })),
            Self::Exploding { schedule, .. } => {
                let only = |setting: String| Error::Setting {
                    setting,
                    hint: "an EDM model is walked by Heun's method in a number of steps".to_owned(),
                };
                if let Some(sampler) = sampler.filter(|sampler| *sampler != Sampler::Heun) {
                    return Err(only(format!("the sampler {}", sampler.name())));
                }
                match steps {
                    Steps::Timesteps(list) => Err(only(format!("a list of timesteps {list:?}"))),
                    Steps::Count(steps) if (1..=GRID).contains(steps) => {
                        Ok(Plan::Heun { schedule: *schedule, steps: *steps })
                    }
                    Steps::Count(steps) => {
                        Err(dmd_scheduler::Error::Steps { steps: *steps, max: GRID }.into())
                    }
                }
            }
        }
    }

    /// Draws samples from a teacher with the configured sampler, which must be deterministic. `z` is unit noise.
    ///
    /// # Errors
    ///
    /// As [`Self::plan`]; [`Error::Schedule`] for a sampler that draws noise between its steps.
    pub fn sample<D: Denoiser>(
        &self,
        denoiser: &D,
        steps: usize,
        z: Tensor<4>,
        condition: &D::Condition,
    ) -> Result<Tensor<4>, Error> {
        match self {
            Self::Preserving { scheduler, .. } => {
                let go_on = |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
                let x0 = scheduler.sample(denoiser, steps, z, condition, go_on)?;
                x0.ok_or_else(|| Error::Setting {
                    setting: format!("{steps} steps"),
                    hint: "the sampler ended before its last step".to_owned(),
                })
            }
            Self::Exploding { schedule, .. } => {
                let start = self.plan(&Steps::Count(steps), None)?.start(z);
                Ok(heun::sample(denoiser, schedule, steps, start, condition))
            }
        }
    }
}

impl NoiseSchedule for Noising {
    fn level(&self, t: Tensor<1>) -> NoiseLevel {
        match self {
            Self::Preserving { schedule, .. } => schedule.level(t),
            Self::Exploding { schedule, .. } => schedule.level(t),
        }
    }

    fn domain(&self) -> RangeInclusive<f64> {
        match self {
            Self::Preserving { schedule, .. } => schedule.domain(),
            Self::Exploding { schedule, .. } => schedule.domain(),
        }
    }
}

/// The plan of a teacher's network calls from noise to samples.
#[derive(Debug, Clone)]
pub enum Plan {
    /// A sampler of The contents of `scheduler_config.json`.
    Walk(Walk),
    /// EDM's deterministic second-order sampler.
    Heun {
        /// The schedule.
        schedule: KarrasSchedule,
        /// Number of noise levels at which the sampler takes a step.
        steps: usize,
    },
}

impl Plan {
    /// Number of network calls.
    pub fn calls(&self) -> usize {
        match self {
            Self::Walk(walk) => walk.timesteps().len(),
            Self::Heun { steps, .. } => 2 * steps - 1,
        }
    }

    /// The plan without its first steps, for samples that start from a picture: `strength` 1 keeps all steps.
    ///
    /// # Errors
    ///
    /// When no step is left, or the sampler cannot start midway.
    pub fn with_strength(self, strength: f64) -> Result<Self, Error> {
        match self {
            Self::Walk(walk) => Ok(Self::Walk(walk.with_strength(strength)?)),
            Self::Heun { .. } => Err(Error::Setting {
                setting: "a picture to start from".to_owned(),
                hint: "models of classes start from noise".to_owned(),
            }),
        }
    }

    /// The first call's input, from unit noise.
    pub fn start(&self, z: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Walk(walk) => walk.start(z),
            Self::Heun { schedule, .. } => z * schedule.sigma_max,
        }
    }

    /// The first call's input, from clean samples and unit noise.
    pub fn start_from(&self, x0: Tensor<4>, z: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Walk(walk) => walk.start_from(x0, z),
            Self::Heun { schedule, .. } => x0 + z * schedule.sigma_max,
        }
    }

    /// Turns `x` (see [`Self::start`]) into clean samples. After each network call `on_step` receives the number of
    /// calls and the predicted clean samples. When `on_step` breaks off, the result is `None`. `draw` provides unit
    /// noise to samplers that need it.
    pub fn run<D: Denoiser>(
        &self,
        denoiser: &D,
        x: Tensor<4>,
        condition: &D::Condition,
        draw: FreshNoise<'_>,
        on_step: &mut dyn FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Option<Tensor<4>> {
        match self {
            Self::Walk(walk) => walk.run(denoiser, x, condition, draw, on_step),
            Self::Heun { schedule, steps } => {
                heun::sample_watched(denoiser, schedule, *steps, x, condition, on_step)
            }
        }
    }
}
