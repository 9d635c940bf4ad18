//! How a distilled generator is called, which `one_step.json` describes.

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
    /// Factor of unit noise before the first call: 1 for Stable Diffusion, the sigma of the first level for EDM.
    pub noise_scale: f64,
    /// Guidance scale of the teacher in the distillation, if the file gives it.
    pub guidance_scale: Option<f64>,
    /// Name of the published recipe; `None` for any other recipe.
    pub name: Option<String>,
    /// What the network predicts, if it differs from what the model's own network predicts.
    pub prediction: Option<Prediction>,
    /// The sampler's steps between the calls, for recipes whose samples are not renoised.
    pub walk: Option<Walk>,
    /// The guidance scale that the network receives, for a network that takes it as an input.
    pub told_guidance: Option<f64>,
    /// Whether the recipe is an assumption, because no file and no name says how the generator is called.
    pub assumed: bool,
    /// Which network is the teacher.
    pub teacher: TeacherOf,
}

/// How a generator's files say that it is called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Called {
    /// A name of a file or folder means this published recipe.
    Named(&'static str),
    /// The metadata of the LoRA file with this path contain this recipe.
    Written(RecipeFile, PathBuf),
}

/// Which network is the teacher of a model that has a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TeacherOf {
    /// The model's UNet. The generator is another network.
    #[default]
    UNet,
    /// The model's UNet without the LoRA files that turn it into the generator.
    UNetWithoutLora,
    /// There is no teacher: the UNet is itself the generator.
    Nothing,
}

impl Recipe {
    /// The recipe of a generator that is called at these timesteps, with the noise levels of the schedule.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] unless the timesteps descend and none is above the schedule's last one.
    pub fn new(timesteps: Vec<usize>, guidance_scale: f64, noising: &Noising) -> Result<Self, Error> {
        check(&timesteps, noising)
            .map_err(|hint| Error::Setting { setting: format!("timesteps {timesteps:?}"), hint })?;
        let noise_scale = noising.noise_scale(timesteps[0]);
        Ok(Self::renoised(timesteps, noise_scale, Some(guidance_scale)))
    }

    /// DMD's recipe, for weights without a recipe file: one call at the last timestep.
    pub fn published(noising: &Noising) -> Self {
        let last = noising.last_timestep();
        Self { assumed: true, ..Self::renoised(vec![last], noising.noise_scale(last), None) }
    }

    /// A note for the user if the recipe is an assumption.
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

    /// The recipe of a generator. A recipe file beside the weights comes first; a different recipe in the options is
    /// then an error. Otherwise it is the published recipe in the options, or the recipe that a name or a LoRA file
    /// gives (`named`), or the `usual` one of such networks, or [`Self::published`]. `beside` is the folder or file of
    /// the weights.
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

    /// The recipe that the file at `place` describes.
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

    /// Checks the number of steps in the options, for a recipe that has only one.
    fn in_steps(self, asked: Option<usize>) -> Result<Self, Error> {
        match asked.filter(|steps| *steps != self.steps()) {
            Some(steps) => Err(Error::Setting {
                setting: format!("a generator in {steps} steps"),
                hint: format!("it was distilled for {}", self.steps()),
            }),
            None => Ok(self),
        }
    }

    /// The numbers of steps that the generator can be called with, if its recipe allows several
    /// ([`OpenOptions::recipe_steps`]).
    pub fn possible_steps(&self) -> Option<RangeInclusive<usize>> {
        self.name.as_deref().and_then(published::possible_steps)
    }

    /// The names of the recipes of published models (see [`OpenOptions::recipe`](crate::OpenOptions::recipe)).
    pub fn names() -> Vec<&'static str> {
        published::names()
    }

    /// Number of network calls.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The recipe that a file without the name of a published recipe describes.
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

    /// Writes the recipe file into a generator's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        self.file().write(folder)
    }

    /// The text of the recipe file, for a LoRA file's metadata ([`RecipeFile::METADATA`]).
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
