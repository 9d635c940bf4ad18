//! `one_step.json`: how a distilled generator is called.

use std::path::Path;

use dmd_core::Prediction;
use dmd_scheduler::Walk;

use crate::families::Kind;
use crate::{Error, Noising, RecipeFile, published};

/// How a distilled generator is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The timestep of each network call, descending; one call for a one-step generator.
    pub timesteps: Vec<usize>,
    /// What unit noise is multiplied by before the first call: 1 for Stable Diffusion, the first level's sigma for EDM.
    pub noise_scale: f64,
    /// Guidance that the teacher was distilled with, where the file says so.
    pub guidance_scale: Option<f64>,
    /// The published recipe's name, where it is one.
    pub name: Option<String>,
    /// What the network predicts, where that is not what the model's own predicts.
    pub prediction: Option<Prediction>,
    /// A sampler's way between the calls, for recipes whose samples are not renoised.
    pub walk: Option<Walk>,
}

impl Recipe {
    /// A generator that is called at these timesteps on the noise that the schedule has there.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] unless they descend from the schedule's last timestep at most.
    pub fn new(timesteps: Vec<usize>, guidance_scale: f64, noising: &Noising) -> Result<Self, Error> {
        check(&timesteps, noising)
            .map_err(|hint| Error::Setting { setting: format!("timesteps {timesteps:?}"), hint })?;
        let noise_scale = noising.noise_scale(timesteps[0]);
        Ok(Self::renoised(timesteps, noise_scale, Some(guidance_scale)))
    }

    /// DMD's own recipe, for weights without a file: one call at the last timestep.
    pub fn published(noising: &Noising) -> Self {
        let last = noising.last_timestep();
        Self::renoised(vec![last], noising.noise_scale(last), None)
    }

    fn renoised(timesteps: Vec<usize>, noise_scale: f64, guidance_scale: Option<f64>) -> Self {
        Self { timesteps, noise_scale, guidance_scale, name: None, prediction: None, walk: None }
    }

    /// The recipe of a generator at a place: the published one that is asked for, otherwise that of the file beside it,
    /// otherwise the published one that its name, or the guess, stands for, otherwise [`Self::published`].
    pub(crate) fn of(
        generator: &Path,
        asked: Option<&str>,
        guessed: Option<&str>,
        kind: Kind,
        noising: &Noising,
    ) -> Result<Self, Error> {
        let written = RecipeFile::beside(generator)?.is_some();
        // A guess yields to what is written.
        let guessed = || published::guess(generator).or(guessed).filter(|_| !written);
        match asked.or_else(guessed) {
            Some(name) if written => Err(Error::Setting {
                setting: format!("the recipe {name:?}"),
                hint: format!("{:?} says how it is called", RecipeFile::place(generator)),
            }),
            Some(name) => published::recipe(name, kind, noising),
            None => Self::beside(generator, noising),
        }
    }

    /// The names of the recipes of published models, see [`OpenOptions::recipe`](crate::OpenOptions::recipe).
    pub fn names() -> Vec<&'static str> {
        published::names()
    }

    /// Number of network calls.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Reads the file beside a generator's weights (a folder, or a file); without one the recipe is
    /// [`Self::published`].
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] when a value is not possible, [`Error::Weights`] when the file is not valid JSON of known
    /// keys.
    pub(crate) fn beside(generator: &Path, noising: &Noising) -> Result<Self, Error> {
        let Some(written) = RecipeFile::beside(generator)? else {
            return Ok(Self::published(noising));
        };
        let wrong = |reason: String| Error::Recipe { path: RecipeFile::place(generator), reason };
        let timesteps = match (written.timesteps, written.timestep) {
            (Some(list), Some(first)) if list.first() != Some(&first) => {
                return Err(wrong(format!("timestep is {first}, but timesteps begin otherwise: {list:?}")));
            }
            (Some(list), _) => list,
            (None, Some(one)) => vec![one],
            (None, None) => vec![noising.last_timestep()],
        };
        check(&timesteps, noising).map_err(|must| wrong(format!("timesteps are {timesteps:?}; {must}")))?;
        let noise_scale = written.noise_scale.unwrap_or(noising.noise_scale(timesteps[0]));
        if !(noise_scale.is_finite() && noise_scale > 0.0) {
            return Err(wrong(format!("noise_scale is {noise_scale}; it must be a positive number")));
        }
        if let Some(scale) = written.guidance_scale.filter(|scale| !(scale.is_finite() && *scale >= 1.0)) {
            return Err(wrong(format!("guidance_scale is {scale}; it must be a number of at least 1")));
        }
        Ok(Self::renoised(timesteps, noise_scale, written.guidance_scale))
    }

    /// Writes the file into a generator's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let written = RecipeFile {
            timestep: self.timesteps.first().copied(),
            noise_scale: Some(self.noise_scale),
            guidance_scale: self.guidance_scale,
            timesteps: (self.timesteps.len() > 1).then(|| self.timesteps.clone()),
        };
        written.write(folder)
    }
}

fn check(timesteps: &[usize], noising: &Noising) -> Result<(), String> {
    let last = noising.last_timestep();
    let descends = timesteps.windows(2).all(|pair| pair[0] > pair[1]);
    if timesteps.is_empty() || !descends || timesteps[0] > last {
        return Err(format!("they must descend, from {last} at most"));
    }
    Ok(())
}
