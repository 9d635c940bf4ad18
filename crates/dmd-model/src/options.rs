//! Where a model's parts come from, and how they are read.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};

use crate::families::Part;
use crate::folder::ModelFolder;
use crate::{Error, published};

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
    /// The model folder.
    pub model: PathBuf,
    /// The generator in place of the folder's own: a network's folder, or a bare state dict of the teacher's
    /// architecture.
    pub generator: Option<PathBuf>,
    /// How the generator is called, by the name of a published recipe ([`Recipe::names`](crate::Recipe::names)). Without
    /// a generator the model's UNet is one: a few-step model in place of the teacher, such as SDXL-turbo.
    pub recipe: Option<String>,
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
            generator: None,
            recipe: None,
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

    /// Where the generator lies: where the options say, otherwise in the model folder. Where there is none, and a recipe
    /// is asked for or known by the model's name, the UNet is the generator; otherwise `None`.
    pub(crate) fn generator_place(&self, folder: &ModelFolder) -> Option<PathBuf> {
        let own = || folder.has(Part::Generator).then(|| folder.part(Part::Generator));
        let few_steps = || self.asked_recipe().map(|_| folder.part(Part::UNet));
        self.generator.clone().or_else(own).or_else(few_steps)
    }

    /// The name of the recipe that is asked for, or that the model's name stands for where no generator is named.
    pub(crate) fn asked_recipe(&self) -> Option<&str> {
        let guessed = || published::guess(&self.model).filter(|_| self.generator.is_none());
        self.recipe.as_deref().or_else(guessed)
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
