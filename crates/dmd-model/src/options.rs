//! Where a model's parts come from, and how they are read.

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

/// What [`OpenOptions::recipe`] is where no published recipe is meant.
const NO_RECIPE: &str = "none";

/// Which networks are read: all, or half of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Networks {
    /// Teacher and generator, whichever the folder has.
    #[default]
    All,
    /// The generator where there is one, otherwise the teacher.
    GeneratorFirst,
    /// The distilled generator alone.
    Generator,
    /// The teacher alone.
    Teacher,
}

/// Where a model's parts come from, and how they are read.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The model folder, or a single file.
    pub model: PathBuf,
    /// A model folder whose configurations, tokenizers and missing parts a single file shares; without one they are those
    /// of the published model of its family.
    pub config: Option<PathBuf>,
    /// The generator in place of the folder's own: a network's folder, or a bare state dict of the teacher's
    /// architecture.
    pub generator: Option<PathBuf>,
    /// How the generator is called, by the name of a published recipe ([`Recipe::names`](crate::Recipe::names)). Without
    /// a generator the model's UNet is one: a few-step model in place of the teacher, such as SDXL-turbo. `none` says that
    /// no published recipe is meant, whatever a file's name says.
    pub recipe: Option<String>,
    /// Number of the generator's calls, for a published recipe that leaves it open
    /// ([`Recipe::possible_steps`](crate::Recipe::possible_steps)); `None` for the usual number.
    pub recipe_steps: Option<usize>,
    /// The guidance that a generator is told as a number, for those that are: latent consistency models. `None` for
    /// diffusers' default, 8.5.
    pub told_guidance: Option<f64>,
    /// LoRA files that are merged into the weights when they are read, in this order.
    pub loras: Vec<LoraOption>,
    /// Files of textual inversion, whose words prompts can have then.
    pub embeddings: Vec<EmbeddingOption>,
    /// The autoencoder in place of the model's own: a folder, or a file of weights for the model's configuration. How
    /// latents are scaled stays what the model's own says.
    pub autoencoder: Option<PathBuf>,
    /// The folder of an `AutoencoderTiny` (TAESD) in place of the full autoencoder.
    pub tiny_autoencoder: Option<PathBuf>,
    /// Code large pictures in overlapping tiles of so many latents a side.
    pub tile: Option<usize>,
    /// The float type of networks and autoencoder.
    pub dtype: FloatDType,
    /// Which networks are read.
    pub networks: Networks,
    /// Where they live.
    pub device: Device,
}

impl OpenOptions {
    /// Everything that a model folder holds, in single precision.
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

    /// Refuses a float type that the device does not compute in.
    pub(crate) fn check_dtype(&self) -> Result<(), Error> {
        check_dtype(&self.device, self.dtype)
    }

    /// Where the generator lies: where the options say, otherwise in the model folder. Where there is none, and the UNet
    /// is called in few steps by what is asked for, by a LoRA or by itself, the UNet is the generator; otherwise `None`.
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

    /// A setting that is of a generator alone.
    pub(crate) fn of_generator_alone(&self) -> Option<&'static str> {
        let steps = self.recipe_steps.map(|_| "a number of the generator's steps");
        steps.or(self.told_guidance.map(|_| "a guidance that the generator is told"))
    }

    /// Whether the model's UNet is a generator by itself: by what is written beside it, by the model's name, or by what it
    /// is told.
    fn is_of_few_steps(&self, source: &Source) -> bool {
        let written =
            || source.folder().is_some_and(|folder| is_file(&RecipeFile::place(&folder.part(Part::UNet))));
        let by_name = self.recipe.as_deref() != Some(NO_RECIPE)
            && (written() || published::guess(&self.model).is_some());
        by_name || NetworkPlace::Part(Part::UNet).told_guidance(source)
    }

    /// What the teacher is where the UNet is the generator.
    pub(crate) fn teacher_of_unet(&self, source: &Source) -> TeacherOf {
        match self.loras.iter().any(|lora| lora.recipe().is_some()) && !self.is_of_few_steps(source) {
            true => TeacherOf::UNetWithoutLora,
            false => TeacherOf::Nothing,
        }
    }

    /// The published recipe that is asked for.
    pub(crate) fn asked_recipe(&self) -> Option<&str> {
        self.recipe.as_deref().filter(|name| *name != NO_RECIPE)
    }

    /// The recipe that a name stands for: a generator's, where `generator` is its place, a LoRA's or, where no generator is
    /// named, the model's.
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

    /// The recipe that LoRA files say, or their names stand for; two of different recipes stand for none.
    fn recipe_of_loras(&self) -> Option<Called> {
        let mut all: Vec<_> = self.loras.iter().filter_map(LoraOption::recipe).collect();
        all.dedup_by(|a, b| match (&a, &b) {
            (Called::Written(a, _), Called::Written(b, _)) => a == b,
            _ => a == b,
        });
        all.pop().filter(|_| self.recipe.is_none() && all.is_empty())
    }
}

/// Refuses a float type that a device does not compute in.
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
