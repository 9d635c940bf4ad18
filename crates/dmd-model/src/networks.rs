//! A model's networks on disk: the teacher's and the generator's, the same for every family.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use dmd_unet::{Network, Preconditioned, Sizes};
use dmd_weights::{read, read_config, weight_file};

use crate::families::{Kind, Part};
use crate::folder::ModelFolder;
use crate::{Distilled, Error, Networks, Noising, OpenOptions, Recipe};

/// Configurations of teacher and generator, and where their weights lie.
#[derive(Debug, Clone)]
pub struct NetworkFiles<N: Network> {
    /// The teacher's folder and configuration, where there is one.
    pub teacher: Option<(PathBuf, N::Config)>,
    /// The generator's folder, or bare state dict, and configuration, where there is one.
    pub generator: Option<(PathBuf, N::Config)>,
    /// How the generator is called.
    pub recipe: Option<Recipe>,
}

/// Teacher and generator of a model.
pub(crate) type Both<N> = (Option<Preconditioned<N>>, Option<Distilled<Preconditioned<N>>>);

impl<N: Network> NetworkFiles<N> {
    pub(crate) fn read(
        folder: &ModelFolder,
        options: &OpenOptions,
        kind: Kind,
        noising: &Noising,
    ) -> Result<Self, Error> {
        let configured = |path: PathBuf| -> Result<_, Error> {
            let config: N::Config = read_config(&path)?;
            N::validate(&config)?;
            Ok((path, config))
        };
        let teacher = folder.has(Part::UNet).then(|| configured(folder.part(Part::UNet))).transpose()?;
        let generator = match options.generator_place(folder) {
            None => None,
            Some(path) if path.is_dir() => Some(configured(path)?),
            // A bare state dict has the teacher's architecture.
            Some(path) => {
                let (_, config) = teacher.as_ref().ok_or_else(|| folder.lacks(Part::UNet))?;
                Some((path, config.clone()))
            }
        };
        let asked = options.asked_recipe();
        let recipe =
            generator.as_ref().map(|(path, _)| Recipe::of(path, asked, kind, noising)).transpose()?;
        Ok(Self { teacher, generator, recipe })
    }

    /// The configuration of the network that is called: the teacher's, or the generator's where there is no teacher.
    pub fn config(&self) -> Option<&N::Config> {
        self.teacher.as_ref().or(self.generator.as_ref()).map(|(_, config)| config)
    }

    /// The sizes of each network, under its name.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, Sizes)> {
        let sized = |name, files: &Option<(PathBuf, N::Config)>| {
            files.as_ref().map(|(_, config)| (name, N::sizes(config)))
        };
        [sized("UNet", &self.teacher), sized("generator", &self.generator)].into_iter().flatten().collect()
    }

    /// Reads the teacher's network; `None` where there is no teacher.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    pub fn load_teacher(&self, device: &Device) -> Result<Option<N>, Error> {
        self.teacher.as_ref().map(|(path, config)| load(path, config, device)).transpose()
    }

    /// Reads the generator's network; `None` where there is no generator.
    ///
    /// # Errors
    ///
    /// As [`Self::load_teacher`].
    pub fn load_generator(&self, device: &Device) -> Result<Option<N>, Error> {
        self.generator.as_ref().map(|(path, config)| load(path, config, device)).transpose()
    }

    /// Reads the networks that are asked for, at least one.
    pub(crate) fn load(&self, options: &OpenOptions, noising: &Noising) -> Result<Both<N>, Error> {
        let (teacher, generator) = match options.networks {
            Networks::All => (true, true),
            Networks::Generator => (false, true),
            Networks::Teacher => (true, false),
            Networks::GeneratorFirst => (self.generator.is_none(), true),
        };
        let own = noising.prediction();
        let denoiser =
            |network: N, prediction| Preconditioned::new(network, prediction).in_precision(options.dtype);
        let generator = if generator { self.load_generator(&options.device)? } else { None };
        let generator = generator.zip(self.recipe.clone());
        let generator = generator.map(|(network, recipe)| {
            let network = denoiser(network, recipe.prediction.unwrap_or(own));
            Distilled::new(network, recipe, noising)
        });
        let teacher = if teacher { self.load_teacher(&options.device)? } else { None };
        match (&teacher, &generator) {
            (None, None) if options.networks == Networks::Teacher => Err(Error::NO_TEACHER),
            (None, None) => Err(Error::NO_GENERATOR),
            _ => Ok((teacher.map(|network| denoiser(network, own)), generator)),
        }
    }
}

/// How the generator of a model is called, read without its weights; `None` where there is no generator.
///
/// # Errors
///
/// When a configuration is missing or damaged.
pub fn generator_recipe(options: &OpenOptions) -> Result<Option<Recipe>, Error> {
    let folder = ModelFolder::open(&options.model)?;
    let Some(place) = options.generator_place(&folder) else { return Ok(None) };
    let kind = Kind::of(&folder)?;
    Recipe::of(&place, options.asked_recipe(), kind, &kind.noising(&folder)?).map(Some)
}

fn load<N: Network>(path: &Path, config: &N::Config, device: &Device) -> Result<N, Error> {
    let file = match path.is_dir() {
        true => weight_file(path, &["diffusion_pytorch_model"])?,
        false => path.to_owned(),
    };
    Ok(N::from_tensors(config, &read(&file)?, device)?)
}
