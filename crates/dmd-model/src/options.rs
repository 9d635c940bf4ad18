//! The options for opening a model: the sources of its parts, and how the parts are read.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use dmd_weights::is_file;

use crate::embeddings::EmbeddingOption;
use crate::families::Part;
use crate::loras::LoraOption;
use crate::networks::NetworkPlace;
use crate::recipe::Called;
use crate::source::Source;
use crate::{Error, RecipeFile, TeacherOf, published};

/// The value of [`OpenOptions::recipe`] that means that no published recipe is used.
const NO_RECIPE: &str = "none";

/// Which networks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Networks {
    /// Both teacher and generator, if the folder has them.
    #[default]
    All,
    /// The generator if there is one, otherwise the teacher.
    GeneratorFirst,
    /// Only the distilled generator.
    Generator,
    /// Only the teacher.
    Teacher,
}

/// The options for opening a model: the sources of its parts, and how the parts are read.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The model folder, or a single file.
    pub model: PathBuf,
    /// A model folder from which a single file takes its configurations, tokenizers and missing parts. Without this
    /// folder, configurations and tokenizers are those of the published model of the file's family.
    pub config: Option<PathBuf>,
    /// A generator that replaces the folder's own: a network's folder, or a bare state dict of the teacher's
    /// architecture.
    pub generator: Option<PathBuf>,
    /// The name of the published recipe by which the generator is called ([`Recipe::names`](crate::Recipe::names)). In
    /// a model without a generator, the UNet is then itself the generator, as in few-step models such as SDXL-turbo.
    /// `none` means that no published recipe is used, whatever the name of a file suggests.
    pub recipe: Option<String>,
    /// Number of the generator's calls, for a published recipe that allows several numbers
    /// ([`Recipe::possible_steps`](crate::Recipe::possible_steps)); `None` for the usual number.
    pub recipe_steps: Option<usize>,
    /// The guidance scale that a generator receives, for a network that takes it as an input: a latent consistency
    /// model. `None` for diffusers' default, 8.5.
    pub told_guidance: Option<f64>,
    /// LoRA files that are merged into the weights when they are read, in this order.
    pub loras: Vec<LoraOption>,
    /// Files of textual inversion, whose words prompts can then contain.
    pub embeddings: Vec<EmbeddingOption>,
    /// An autoencoder that replaces the model's own: a folder, or a file of weights for the model's configuration. The
    /// scaling factor of latents stays that of the model's own autoencoder.
    pub autoencoder: Option<PathBuf>,
    /// The folder of an `AutoencoderTiny` (TAESD) that replaces the full autoencoder.
    pub tiny_autoencoder: Option<PathBuf>,
    /// Encode and decode large pictures in overlapping tiles with this number of latents per side.
    pub tile: Option<usize>,
    /// The float type of networks and autoencoder.
    pub dtype: FloatDType,
    /// Which networks are read.
    pub networks: Networks,
    /// The device of the networks.
    pub device: Device,
}

impl OpenOptions {
    /// Options that open everything in a model folder, in single precision.
    pub fn new(model: impl Into<PathBuf>, device: &Device) -> Self {
        Self {
            model: model.into(),
            config: None,
            generator: None,
            recipe: None,
            recipe_steps: None,
            told_guidance: None,
            loras: Vec::new(),
            embeddings: Vec::new(),
            autoencoder: None,
            tiny_autoencoder: None,
            tile: None,
            dtype: FloatDType::F32,
            networks: Networks::All,
            device: device.clone(),
        }
    }

    /// Returns an error for a float type that the device does not support.
    pub(crate) fn check_dtype(&self) -> Result<(), Error> {
        check_dtype(&self.device, self.dtype)
    }

    /// Where the generator's weights are: in the place that the options name, otherwise in the model folder. If there
    /// is no generator, the UNet itself is the generator when the options name a recipe, when a LoRA file turns it into
    /// a few-step model, or when it is a few-step model by itself. Otherwise the result is `None`.
    pub(crate) fn generator_place(&self, source: &Source) -> Option<NetworkPlace> {
        let own = || source.has(Part::Generator).then_some(NetworkPlace::Part(Part::Generator));
        let few_steps = || {
            let few = self.asked_recipe().is_some()
                || self.recipe_of_loras().is_some()
                || self.is_of_few_steps(source);
            few.then_some(NetworkPlace::Part(Part::UNet))
        };
        self.generator.clone().map(NetworkPlace::At).or_else(own).or_else(few_steps)
    }

    /// Describes a setting that only a generator has, if one is set.
    pub(crate) fn of_generator_alone(&self) -> Option<&'static str> {
        let steps = self.recipe_steps.map(|_| "a number of the generator's steps");
        steps.or(self.told_guidance.map(|_| "a guidance that the generator is told"))
    }

    /// Whether the model's UNet is itself a few-step generator, according to a recipe file beside it, the model's name,
    /// or an input for the guidance scale.
    fn is_of_few_steps(&self, source: &Source) -> bool {
        let written =
            || source.folder().is_some_and(|folder| is_file(&RecipeFile::place(&folder.part(Part::UNet))));
        let by_name = self.recipe.as_deref() != Some(NO_RECIPE)
            && (written() || published::guess(&self.model).is_some());
        by_name || NetworkPlace::Part(Part::UNet).told_guidance(source)
    }

    /// Which network is the teacher if the UNet is the generator.
    pub(crate) fn teacher_of_unet(&self, source: &Source) -> TeacherOf {
        match self.loras.iter().any(|lora| lora.recipe().is_some()) && !self.is_of_few_steps(source) {
            true => TeacherOf::UNetWithoutLora,
            false => TeacherOf::Nothing,
        }
    }

    /// The published recipe that the options name.
    pub(crate) fn asked_recipe(&self) -> Option<&str> {
        self.recipe.as_deref().filter(|name| *name != NO_RECIPE)
    }

    /// The recipe that follows from the name of the generator's file or folder `generator`, from a LoRA file or, if the
    /// options name no generator, from the model's name.
    pub(crate) fn named_recipe(&self, generator: Option<&Path>) -> Option<Called> {
        if self.recipe.is_some() {
            return None;
        }
        let of_model = || published::guess(&self.model).filter(|_| self.generator.is_none());
        let by_loras = self.loras.iter().any(|lora| lora.recipe().is_some());
        generator.and_then(published::guess).map(Called::Named).or_else(|| match by_loras {
            true => self.recipe_of_loras(),
            false => of_model().map(Called::Named),
        })
    }

    /// The recipe that the LoRA files or their names give. If two files give different recipes, the result is `None`.
    fn recipe_of_loras(&self) -> Option<Called> {
        let mut all: Vec<_> = self.loras.iter().filter_map(LoraOption::recipe).collect();
        all.dedup_by(|a, b| match (&a, &b) {
            (Called::Written(a, _), Called::Written(b, _)) => a == b,
            _ => a == b,
        });
        all.pop().filter(|_| self.recipe.is_none() && all.is_empty())
    }
}

/// Returns an error for a float type that a device does not support.
///
/// # Errors
///
/// [`Error::Dtype`].
pub fn check_dtype(device: &Device, dtype: FloatDType) -> Result<(), Error> {
    let known = [FloatDType::F32, FloatDType::F16, FloatDType::BF16].contains(&dtype);
    if known && device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(Error::Dtype { dtype })
}
