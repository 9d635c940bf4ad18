//! Reads a model's networks, teacher and generator, in the same way for every family.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use dmd_unet::{Network, Preconditioned, Sizes, TOLD_GUIDANCE};
use dmd_weights::{LoraPart, Part as FilePart, Tensors, is_dir, is_file, read_config};
use serde_json::Value;

use crate::families::{Kind, Part};
use crate::loras::{Change, Loras};
use crate::source::{Source, of_file, of_folder, of_generator};
use crate::{Distilled, Error, Networks, Noising, OpenOptions, Recipe, TeacherOf};

/// The source of a network's weights.
#[derive(Debug, Clone)]
pub(crate) enum NetworkPlace {
    /// A part of the model.
    Part(Part),
    /// A network's folder, or a file.
    At(PathBuf),
}

impl NetworkPlace {
    /// Whether the network takes the guidance scale as an input. The result is false if the configuration cannot be
    /// read; that error is reported when the configuration is needed.
    pub(crate) fn told_guidance(&self, source: &Source) -> bool {
        let config: Result<Value, Error> = match self {
            Self::Part(part) => source.config(*part),
            Self::At(path) if is_dir(path) => read_config(path).map_err(Into::into),
            Self::At(_) => source.config(Part::UNet),
        };
        config.is_ok_and(|config| config["time_cond_proj_dim"].is_number())
    }
}

/// Configurations of teacher and generator, and the sources of their weights.
#[derive(Debug, Clone)]
pub struct NetworkFiles<N: Network> {
    source: Source,
    teacher: Option<N::Config>,
    generator: Option<(NetworkPlace, N::Config)>,
    /// How the generator is called; `None` if there is no generator.
    pub recipe: Option<Recipe>,
}

/// Teacher and generator of a model, each if it is read.
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
                    NetworkPlace::At(path) if is_dir(path) => valid(read_config(path)?)?,
                    // A file of weights must have the teacher's architecture.
                    NetworkPlace::At(_) => of_part(Part::UNet)?,
                };
                Some((place, config))
            }
        };
        let recipe = generator.as_ref().map(|(place, _)| recipe_at(place, source, options, kind, noising));
        let recipe = recipe.transpose()?;
        if let (None, Some(setting)) = (&recipe, options.of_generator_alone()) {
            let hint = "it has no distilled generator".to_owned();
            return Err(Error::Setting { setting: setting.to_owned(), hint });
        }
        Ok(Self { source: source.clone(), teacher, generator, recipe })
    }

    /// The error that there is no teacher, if the UNet is itself the generator.
    fn few_steps(&self) -> Option<Error> {
        let recipe = self.recipe.as_ref().filter(|recipe| recipe.teacher == TeacherOf::Nothing)?;
        Some(Error::few_steps(recipe))
    }

    /// The configuration of the model's network: that of the teacher, or of the generator if there is no teacher.
    pub fn config(&self) -> Option<&N::Config> {
        self.teacher.as_ref().or(self.generator.as_ref().map(|(_, config)| config))
    }

    /// A note for the user about a generator whose recipe is an assumption.
    pub(crate) fn note(&self, options: &OpenOptions) -> Option<String> {
        let named = matches!(self.generator, Some((NetworkPlace::At(_), _)));
        let recipe = self.recipe.as_ref().filter(|_| named && options.networks != Networks::Teacher);
        recipe.and_then(Recipe::assumption)
    }

    /// The sizes of each network, with its name.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, Sizes)> {
        let sized = |name, config: Option<&N::Config>| config.map(|config| (name, N::sizes(config)));
        let generator = self.generator.as_ref().map(|(_, config)| config);
        [sized("UNet", self.teacher.as_ref()), sized("generator", generator)].into_iter().flatten().collect()
    }

    /// Reads the teacher's network; `None` if there is no teacher.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    pub fn load_teacher(&self, device: &Device) -> Result<Option<N>, Error> {
        self.teacher_with(&mut Loras::none(), FloatDType::F32, device)
    }

    /// Reads the generator's network; `None` if there is no generator.
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
        let weights = self.source.tensors(Part::UNet)?;
        let weights = self.merged_for_teacher(loras, weights)?;
        Ok(Some(N::from_tensors_in(config, &weights, dtype, device)?))
    }

    fn generator_with(
        &self,
        loras: &mut Loras,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<N>, Error> {
        let Some((place, config)) = &self.generator else { return Ok(None) };
        let weights = loras.merged(LoraPart::UNet, self.weights_at(place)?)?;
        Ok(Some(N::from_tensors_in(config, &weights, dtype, device)?))
    }

    /// Replaces the LoRA files that were merged into the networks by others. Reads only the layers that an old or a new
    /// file changes.
    pub(crate) fn change(
        &self,
        teacher: &mut Option<Preconditioned<N>>,
        generator: &mut Option<Distilled<Preconditioned<N>>>,
        change: &mut Change,
        options: &OpenOptions,
    ) -> Result<(), Error> {
        if generator.is_none() && self.generator.is_some() {
            change.after.leave_few_steps_out();
        }
        let reload = |network: &mut N, weights: Tensors, names| -> Result<(), Error> {
            *network = dmd_weights::reload(network.clone(), &weights, &N::KEYS, options.dtype, &names)?;
            Ok(())
        };
        if let (Some(generator), Some((place, _))) = (generator, &self.generator) {
            let base = self.weights_at(place)?;
            let names = change.touched(LoraPart::UNet, &base)?;
            let merged = change.after.merged(LoraPart::UNet, base)?;
            reload(&mut generator.network.denoiser.network, merged, names)?;
        }
        if let Some(teacher) = teacher {
            let base = self.source.tensors(Part::UNet)?;
            let names = change.touched(LoraPart::UNet, &base)?;
            let merged = self.merged_for_teacher(&mut change.after, base)?;
            reload(&mut teacher.network, merged, names)?;
        }
        Ok(())
    }

    /// Merges LoRA files into the teacher's weights, without those that turn them into a generator.
    fn merged_for_teacher(&self, loras: &mut Loras, weights: Tensors) -> Result<Tensors, Error> {
        match self.generator {
            Some(_) => loras.merged_for_teacher(LoraPart::UNet, weights),
            None => loras.merged(LoraPart::UNet, weights),
        }
    }

    fn weights_at(&self, place: &NetworkPlace) -> Result<Tensors, Error> {
        match place {
            NetworkPlace::Part(part) => self.source.tensors(*part),
            NetworkPlace::At(path) if is_dir(path) => of_folder(path),
            NetworkPlace::At(path) => of_file(path, FilePart::UNet),
        }
    }

    /// Reads the requested networks, and returns an error if there is none.
    pub(crate) fn load(
        &self,
        options: &OpenOptions,
        noising: &Noising,
        loras: &mut Loras,
    ) -> Result<Both<N>, Error> {
        let (teacher, generator) = match options.networks {
            Networks::All => (self.few_steps().is_none(), true),
            Networks::Generator => (false, true),
            Networks::Teacher => match self.few_steps() {
                Some(error) => return Err(error),
                None => (true, false),
            },
            Networks::GeneratorFirst => (self.generator.is_none(), true),
        };
        if options.networks == Networks::Teacher && self.generator.is_some() {
            loras.leave_few_steps_out();
        }
        let own = noising.prediction();
        let generator =
            if generator { self.generator_with(loras, options.dtype, &options.device)? } else { None };
        let generator = generator.zip(self.recipe.clone());
        let generator = generator.map(|(network, recipe)| {
            let network = match recipe.told_guidance {
                Some(scale) => network.with_guidance(scale),
                None => network,
            };
            let network = Preconditioned::new(network, recipe.prediction.unwrap_or(own));
            let network = network.telling(noising.log_factor());
            Distilled::new(network, recipe, noising)
        });
        let teacher = if teacher { self.teacher_with(loras, options.dtype, &options.device)? } else { None };
        match (&teacher, &generator) {
            (None, None) if options.networks == Networks::Teacher => Err(Error::NO_TEACHER),
            (None, None) => Err(Error::NO_GENERATOR),
            _ => {
                let told = |network| Preconditioned::new(network, own).telling(noising.log_factor());
                Ok((teacher.map(told), generator))
            }
        }
    }
}

/// How the generator of a model is called, without reading its weights; `None` if there is no generator.
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
    let beside = match (place, source.folder()) {
        (NetworkPlace::At(path), _) => Some(path.clone()),
        (NetworkPlace::Part(part), Some(folder)) => Some(folder.part(*part)),
        // The folder of a single file holds other models, so a recipe file in it need not belong to this model.
        (NetworkPlace::Part(_), None) => None,
    };
    let of_unet = matches!(place, NetworkPlace::Part(Part::UNet));
    // With the recipe `none`, a recipe file beside the UNet is ignored. A recipe file beside a generator always
    // applies.
    let beside = beside.filter(|_| !of_unet || options.recipe.is_none() || options.asked_recipe().is_some());
    let named = match place {
        NetworkPlace::At(path) => options.named_recipe(Some(path)),
        NetworkPlace::Part(_) => options.named_recipe(None),
    };
    let told = place.told_guidance(source);
    // A network that takes the guidance scale as an input is a latent consistency model.
    let usual = told.then_some("lcm");
    let mut recipe = Recipe::of(beside.as_deref(), named, usual, options, kind, noising)?;
    if of_unet {
        recipe.teacher = options.teacher_of_unet(source);
    }
    recipe.told_guidance = match options.told_guidance {
        Some(scale) if told && scale.is_finite() && scale >= 1.0 => Some(scale),
        Some(scale) => {
            let hint = match told {
                true => "it must be a number of at least 1",
                false => "its network is not told one",
            };
            let setting = format!("a generator under guidance {scale}");
            return Err(Error::Setting { setting, hint: hint.to_owned() });
        }
        None => told.then_some(TOLD_GUIDANCE),
    };
    if let NetworkPlace::At(file) = place
        && is_file(file)
    {
        let found = of_generator(file, kind)?;
        recipe.prediction = recipe.prediction.or(found.filter(|found| *found != noising.prediction()));
    }
    Ok(recipe)
}
