//! A model's networks on disk: the teacher's and the generator's, the same for every family.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use dmd_unet::{Network, Preconditioned, Sizes};
use dmd_weights::{LoraPart, Part as FilePart, read_config};

use crate::families::{Kind, Part};
use crate::loras::Loras;
use crate::source::{Source, of_file, of_folder};
use crate::{Distilled, Error, Networks, Noising, OpenOptions, Recipe};

/// Where a network's weights lie.
#[derive(Debug, Clone)]
pub(crate) enum NetworkPlace {
    /// They are a part of the model.
    Part(Part),
    /// A network's folder, or a file.
    At(PathBuf),
}

/// Configurations of teacher and generator, and where their weights lie.
#[derive(Debug, Clone)]
pub struct NetworkFiles<N: Network> {
    source: Source,
    teacher: Option<N::Config>,
    generator: Option<(NetworkPlace, N::Config)>,
    /// How the generator is called; `None` where there is no generator.
    pub recipe: Option<Recipe>,
}

/// Teacher and generator of a model.
pub(crate) type Both<N> = (Option<Preconditioned<N>>, Option<Distilled<Preconditioned<N>>>);

impl<N: Network> NetworkFiles<N> {
    pub(crate) fn read(
        source: &Source,
        options: &OpenOptions,
        kind: Kind,
        noising: &Noising,
    ) -> Result<Self, Error> {
        let valid = |config: N::Config| -> Result<_, Error> {
            N::validate(&config)?;
            Ok(config)
        };
        let of_part = |part| valid(source.config(part)?);
        let teacher = source.has(Part::UNet).then(|| of_part(Part::UNet)).transpose()?;
        let generator = match options.generator_place(source) {
            None => None,
            Some(place) => {
                let config = match &place {
                    NetworkPlace::Part(part) => of_part(*part)?,
                    NetworkPlace::At(path) if path.is_dir() => valid(read_config(path)?)?,
                    // A file of weights has the teacher's architecture.
                    NetworkPlace::At(_) => of_part(Part::UNet)?,
                };
                Some((place, config))
            }
        };
        let recipe = generator.as_ref().map(|(place, _)| recipe_at(place, source, options, kind, noising));
        Ok(Self { source: source.clone(), teacher, generator, recipe: recipe.transpose()? })
    }

    /// The configuration of the network that is called: the teacher's, or the generator's where there is no teacher.
    pub fn config(&self) -> Option<&N::Config> {
        self.teacher.as_ref().or(self.generator.as_ref().map(|(_, config)| config))
    }

    /// The sizes of each network, under its name.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, Sizes)> {
        let sized = |name, config: Option<&N::Config>| config.map(|config| (name, N::sizes(config)));
        let generator = self.generator.as_ref().map(|(_, config)| config);
        [sized("UNet", self.teacher.as_ref()), sized("generator", generator)].into_iter().flatten().collect()
    }

    /// Reads the teacher's network; `None` where there is no teacher.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    pub fn load_teacher(&self, device: &Device) -> Result<Option<N>, Error> {
        self.teacher_with(&mut Loras::none(), FloatDType::F32, device)
    }

    /// Reads the generator's network; `None` where there is no generator.
    ///
    /// # Errors
    ///
    /// As [`Self::load_teacher`].
    pub fn load_generator(&self, device: &Device) -> Result<Option<N>, Error> {
        self.generator_with(&mut Loras::none(), FloatDType::F32, device)
    }

    fn teacher_with(
        &self,
        loras: &mut Loras,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<N>, Error> {
        let Some(config) = &self.teacher else { return Ok(None) };
        self.load_from(&NetworkPlace::Part(Part::UNet), config, loras, dtype, device).map(Some)
    }

    fn generator_with(
        &self,
        loras: &mut Loras,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<N>, Error> {
        let Some((place, config)) = &self.generator else { return Ok(None) };
        self.load_from(place, config, loras, dtype, device).map(Some)
    }

    fn load_from(
        &self,
        place: &NetworkPlace,
        config: &N::Config,
        loras: &mut Loras,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<N, Error> {
        let weights = match place {
            NetworkPlace::Part(part) => self.source.tensors(*part)?,
            NetworkPlace::At(path) if path.is_dir() => of_folder(path)?,
            NetworkPlace::At(path) => of_file(path, FilePart::UNet)?,
        };
        Ok(N::from_tensors_in(config, &loras.merged(LoraPart::UNet, weights)?, dtype, device)?)
    }

    /// Reads the networks that are asked for, at least one.
    pub(crate) fn load(
        &self,
        options: &OpenOptions,
        noising: &Noising,
        loras: &mut Loras,
    ) -> Result<Both<N>, Error> {
        let (teacher, generator) = match options.networks {
            Networks::All => (true, true),
            Networks::Generator => (false, true),
            Networks::Teacher => (true, false),
            Networks::GeneratorFirst => (self.generator.is_none(), true),
        };
        let own = noising.prediction();
        let generator =
            if generator { self.generator_with(loras, options.dtype, &options.device)? } else { None };
        let generator = generator.zip(self.recipe.clone());
        let generator = generator.map(|(network, recipe)| {
            let network = Preconditioned::new(network, recipe.prediction.unwrap_or(own));
            Distilled::new(network, recipe, noising)
        });
        let teacher = if teacher { self.teacher_with(loras, options.dtype, &options.device)? } else { None };
        match (&teacher, &generator) {
            (None, None) if options.networks == Networks::Teacher => Err(Error::NO_TEACHER),
            (None, None) => Err(Error::NO_GENERATOR),
            _ => Ok((teacher.map(|network| Preconditioned::new(network, own)), generator)),
        }
    }
}

/// How the generator of a model is called, read without its weights; `None` where there is no generator.
///
/// # Errors
///
/// When a configuration is missing or damaged.
pub fn generator_recipe(options: &OpenOptions) -> Result<Option<Recipe>, Error> {
    let source = Source::open(options)?;
    let Some(place) = options.generator_place(&source) else { return Ok(None) };
    let kind = Kind::of(&source)?;
    recipe_at(&place, &source, options, kind, &kind.noising(&source)?).map(Some)
}

fn recipe_at(
    place: &NetworkPlace,
    source: &Source,
    options: &OpenOptions,
    kind: Kind,
    noising: &Noising,
) -> Result<Recipe, Error> {
    let path = match (place, source.folder()) {
        (NetworkPlace::At(path), _) => path.clone(),
        (NetworkPlace::Part(part), Some(folder)) => folder.part(*part),
        (NetworkPlace::Part(_), None) => source.path().to_owned(),
    };
    Recipe::of(&path, options.recipe.as_deref(), options.guessed_recipe(), kind, noising)
}
