//! `one_step.json`: how a distilled generator is called.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use dmd_core::Prediction;
use dmd_scheduler::Walk;

use crate::families::Kind;
use crate::{Error, Noising, OpenOptions, RecipeFile, published};

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
    /// The guidance that the network is told as a number, for one that is.
    pub told_guidance: Option<f64>,
    /// Whether nothing says so: neither a file nor a name.
    pub assumed: bool,
    /// What its teacher is.
    pub teacher: TeacherOf,
}

/// How a generator is called, by what its files are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Called {
    /// By a published recipe, which a name stands for.
    Named(&'static str),
    /// By what stands in the metadata of a LoRA file, which is this one.
    Written(RecipeFile, PathBuf),
}

/// What the teacher of a model with a generator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TeacherOf {
    /// The model's UNet, beside which the generator is another network.
    #[default]
    UNet,
    /// The model's UNet without the LoRA files that make it the generator.
    UNetWithoutLora,
    /// Nothing: the UNet is itself the generator.
    Nothing,
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
        Self { assumed: true, ..Self::renoised(vec![last], noising.noise_scale(last), None) }
    }

    /// What a user should know where nothing says how the generator is called.
    pub(crate) fn assumption(&self) -> Option<String> {
        let at = self.timesteps.first().filter(|_| self.assumed)?;
        let file = RecipeFile::NAME;
        Some(format!(
            "nothing says how this generator is called: it is called once, at t = {at}, as DMD's first ones; {file} beside \
             it, or a recipe by name (--recipe), says otherwise"
        ))
    }

    fn renoised(timesteps: Vec<usize>, noise_scale: f64, guidance_scale: Option<f64>) -> Self {
        Self {
            timesteps,
            noise_scale,
            guidance_scale,
            name: None,
            prediction: None,
            walk: None,
            told_guidance: None,
            assumed: false,
            teacher: TeacherOf::UNet,
        }
    }

    /// The recipe of a generator: the published one that is asked for, otherwise that of the file beside it, otherwise the
    /// one that a name stands for or a LoRA file says, otherwise the `usual` one of such networks, otherwise [`Self::published`].
    /// `beside` is the folder or file beside whose weights a recipe may be written.
    pub(crate) fn of(
        beside: Option<&Path>,
        named: Option<Called>,
        usual: Option<&'static str>,
        options: &OpenOptions,
        kind: Kind,
        noising: &Noising,
    ) -> Result<Self, Error> {
        let written = beside.map(RecipeFile::beside).transpose()?.flatten();
        let (asked, steps) = (options.asked_recipe(), options.recipe_steps);
        if let (Some(written), Some(beside)) = (&written, beside) {
            let place = RecipeFile::place(beside);
            if let Some(asked) = asked.filter(|asked| written.recipe.as_deref() != Some(*asked)) {
                return Err(Error::Setting {
                    setting: format!("the recipe {asked:?}"),
                    hint: format!("{place:?} says how it is called"),
                });
            }
            return Self::of_file(written, &place, steps, kind, noising);
        }
        match (asked, named, usual) {
            (None, Some(Called::Written(written, path)), _) => {
                Self::of_file(&written, &path, steps, kind, noising)
            }
            (Some(name), ..) | (None, Some(Called::Named(name)), _) | (None, None, Some(name)) => {
                published::recipe(name, steps, kind, noising)
            }
            (None, None, None) => Self::published(noising).in_steps(steps),
        }
    }

    /// The recipe that a file at `place` says.
    fn of_file(
        written: &RecipeFile,
        place: &Path,
        steps: Option<usize>,
        kind: Kind,
        noising: &Noising,
    ) -> Result<Self, Error> {
        let Some(name) = &written.recipe else {
            return Self::written(written, place, noising)?.in_steps(steps);
        };
        let wrong = |reason: String| Error::Recipe { path: place.to_owned(), reason };
        if *written != RecipeFile::named(name) {
            return Err(wrong(format!("the recipe {name:?} stands in place of all other keys")));
        }
        if !published::names().contains(&name.as_str()) {
            return Err(wrong(format!("it names the unknown recipe {name:?}")));
        }
        published::recipe(name, steps, kind, noising)
    }

    /// The recipe, which has one number of steps.
    fn in_steps(self, asked: Option<usize>) -> Result<Self, Error> {
        match asked.filter(|steps| *steps != self.steps()) {
            Some(steps) => Err(Error::Setting {
                setting: format!("a generator in {steps} steps"),
                hint: format!("it was distilled for {}", self.steps()),
            }),
            None => Ok(self),
        }
    }

    /// The numbers of steps that the generator can be called in, where its recipe leaves them open
    /// ([`OpenOptions::recipe_steps`]).
    pub fn possible_steps(&self) -> Option<RangeInclusive<usize>> {
        self.name.as_deref().and_then(published::possible_steps)
    }

    /// The names of the recipes of published models, see [`OpenOptions::recipe`](crate::OpenOptions::recipe).
    pub fn names() -> Vec<&'static str> {
        published::names()
    }

    /// Number of network calls.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// What a file says.
    fn written(written: &RecipeFile, path: &Path, noising: &Noising) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Recipe { path: path.to_owned(), reason };
        let timesteps = match (written.timesteps.clone(), written.timestep) {
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
        self.file().write(folder)
    }

    /// The file's text, for a LoRA file's metadata ([`RecipeFile::METADATA`]).
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.file()).unwrap_or_default() // numbers and texts have a JSON form
    }

    fn file(&self) -> RecipeFile {
        let written = RecipeFile {
            timestep: self.timesteps.first().copied(),
            noise_scale: Some(self.noise_scale),
            guidance_scale: self.guidance_scale,
            timesteps: (self.timesteps.len() > 1).then(|| self.timesteps.clone()),
            recipe: None,
        };
        self.name.as_deref().map_or(written, RecipeFile::named)
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
