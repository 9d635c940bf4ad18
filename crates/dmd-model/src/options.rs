//! Where a model's parts come from, and how they are read.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};

use crate::embeddings::EmbeddingOption;
use crate::families::Part;
use crate::loras::LoraOption;
use crate::networks::NetworkPlace;
use crate::source::Source;
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
    /// The model folder, or a single file.
    pub model: PathBuf,
    /// A model folder whose configurations, tokenizers and missing parts a single file shares; without one they are those
    /// of the published model of its family.
    pub config: Option<PathBuf>,
    /// The generator in place of the folder's own: a network's folder, or a bare state dict of the teacher's
    /// architecture.
    pub generator: Option<PathBuf>,
    /// How the generator is called, by the name of a published recipe ([`Recipe::names`](crate::Recipe::names)). Without
    /// a generator the model's UNet is one: a few-step model in place of the teacher, such as SDXL-turbo.
    pub recipe: Option<String>,
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

    /// Where the generator lies: where the options say, otherwise in the model folder. Where there is none, and a recipe
    /// is asked for or known by the model's name, the UNet is the generator; otherwise `None`.
    pub(crate) fn generator_place(&self, source: &Source) -> Option<NetworkPlace> {
        let own = || source.has(Part::Generator).then_some(NetworkPlace::Part(Part::Generator));
        let few_steps = || {
            let known = self.recipe.as_deref().or(self.guessed_recipe());
            known.map(|_| NetworkPlace::Part(Part::UNet))
        };
        self.generator.clone().map(NetworkPlace::At).or_else(own).or_else(few_steps)
    }

    /// The recipe that the name of a LoRA or, where no generator is named, of the model stands for. Two LoRA files of
    /// different recipes stand for none.
    pub(crate) fn guessed_recipe(&self) -> Option<&'static str> {
        let used = self.loras.iter().filter(|lora| lora.strength != 0.0);
        let mut of_loras: Vec<_> = used.filter_map(|lora| published::guess(&lora.path)).collect();
        of_loras.dedup();
        match of_loras.as_slice() {
            [] => published::guess(&self.model).filter(|_| self.generator.is_none()),
            [one] => Some(one),
            _ => None,
        }
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
