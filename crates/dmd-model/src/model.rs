use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::{Denoiser, FewStep, Guided, Prediction};
use dmd_unet::{Network, Preconditioned};

use crate::classes::ClassConditioner;
use crate::family::{Conditioner, Family};
use crate::folder::{Kind, ModelFolder, Part};
use crate::{Codec, Error, Noising, PixelClasses, Recipe, StableDiffusion, TextToImage, pixel_classes};

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

/// An opened model.
#[derive(Debug, Clone)]
pub struct Model<F: Family> {
    /// Prompts to conditions.
    pub conditioner: F::Conditioner,
    /// The network's configuration.
    pub config: <F::Network as Network>::Config,
    /// The teacher's network, without guidance.
    pub teacher: Option<Preconditioned<F::Network>>,
    /// The distilled generator.
    pub generator: Option<Distilled<Preconditioned<F::Network>>>,
    /// Noise schedule and samplers.
    pub noising: Noising,
    /// Samples to pictures.
    pub codec: Codec,
    /// The teacher's guidance where nobody names one: what the generator was distilled with, otherwise the family's
    /// usual.
    pub guidance_scale: f64,
    /// Where the networks live.
    pub device: Device,
}

impl<F: Family> Model<F> {
    /// The teacher's network.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when the model was opened without.
    pub fn teacher(&self) -> Result<&Preconditioned<F::Network>, Error> {
        self.teacher.as_ref().ok_or(Error::NO_TEACHER)
    }

    /// The distilled generator.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when there is none.
    pub fn generator(&self) -> Result<&Distilled<Preconditioned<F::Network>>, Error> {
        self.generator.as_ref().ok_or(Error::NO_GENERATOR)
    }

    /// The teacher under classifier-free guidance, its network in a float type.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without a teacher; what the conditioner returns for the empty prompt.
    pub fn guided(&self, scale: f64, dtype: FloatDType) -> Result<Guided<Preconditioned<F::Network>>, Error> {
        let network = self.teacher()?.clone().in_precision(dtype);
        Ok(Guided::new(network, self.conditioner.condition(&[""])?, scale))
    }

    /// A copy of a network as a fake score that is trained on the squared error of another parameterisation.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] for an EDM model, whose preconditioning has a loss of its own.
    pub fn with_loss(
        &self,
        network: Preconditioned<F::Network>,
        loss: Prediction,
    ) -> Result<Preconditioned<F::Network>, Error> {
        let own = network.prediction();
        match own {
            Prediction::Karras { .. } if loss != own => Err(Error::Setting {
                setting: format!("fake.loss = {loss:?}"),
                hint: "leave it out: an EDM model has a loss of its own".to_owned(),
            }),
            _ => Ok(network.with_loss(loss)),
        }
    }

    /// A network with a fresh critic's head on the training device.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when the model's samples are too small for one.
    pub fn with_critic(
        &self,
        network: Preconditioned<F::Network>,
        training: &Device,
    ) -> Result<Preconditioned<F::Network>, Error> {
        Ok(network.with_critic(F::Network::sizes(&self.config).critic(training)?))
    }

    /// A network with the weights of a file, laid out for training.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file is missing, damaged, or does not fit.
    pub fn with_weights(
        &self,
        mut network: Preconditioned<F::Network>,
        file: &Path,
    ) -> Result<Preconditioned<F::Network>, Error> {
        let file = dmd_weights::read(file)?;
        network.network = dmd_weights::load_for_training(network.network, &file, &F::Network::KEYS)?;
        Ok(network)
    }

    /// Shape of a sample of the size that the model was trained on, `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        F::Network::sizes(&self.config).sample()
    }

    /// By how much the network halves a sample: its sides must be multiples of this.
    pub fn multiple(&self) -> usize {
        F::Network::sizes(&self.config).downsampling
    }

    /// Height and width of the pictures that the model was trained on.
    pub fn picture_size(&self) -> (usize, usize) {
        let [_, height, width] = self.shape();
        (height * self.codec.factor(), width * self.codec.factor())
    }

    /// What both sides of a picture must be multiples of.
    pub fn picture_multiple(&self) -> usize {
        self.multiple() * self.codec.factor()
    }
}

/// A distilled generator, called as it was distilled.
#[derive(Debug, Clone)]
pub struct Distilled<N: Module + ModuleDisplay> {
    /// The network with its levels.
    pub network: FewStep<N>,
    /// How it is called.
    pub recipe: Recipe,
}

impl<N: Denoiser + Module + ModuleDisplay> Distilled<N> {
    /// A network that is called by a recipe.
    pub fn new(network: N, recipe: Recipe, noising: &Noising) -> Self {
        let levels = recipe.timesteps.iter().map(|timestep| noising.at(*timestep)).collect();
        let network = FewStep::new(network, levels).with_noise_scale(recipe.noise_scale);
        Self { network, recipe }
    }

    /// Clean samples of unit noise `z`; `draw` gives unit noise between two calls. After each call `on_step` receives
    /// the number of calls and the clean samples predicted; when it breaks off, the result is `None`.
    pub fn generate(
        &self,
        z: Tensor<4>,
        condition: &N::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
        on_step: &mut dyn FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Option<Tensor<4>> {
        let steps = self.recipe.steps();
        self.network.walk(steps, z, condition, draw, on_step).continue_value()
    }
}

/// How the generator of a model is called, read without its weights; `None` where there is no generator.
///
/// # Errors
///
/// When a configuration is missing or damaged.
pub fn generator_recipe(options: &OpenOptions) -> Result<Option<Recipe>, Error> {
    let folder = ModelFolder::open(&options.model)?;
    let own = folder.has(Part::Generator).then(|| folder.part(Part::Generator));
    let Some(place) = options.generator.clone().or(own) else { return Ok(None) };
    Recipe::beside(&place, &folder.noising()?).map(Some)
}

/// Why the parts of a model do not belong together, a sentence each; empty for a good model. Reads no weights.
///
/// # Errors
///
/// When a configuration is missing, damaged or not supported.
pub fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
    match ModelFolder::open(&options.model)?.kind()? {
        Kind::StableDiffusion => Ok(TextToImage::read(options)?.misfits()),
        Kind::Classes => pixel_classes::misfits(options),
    }
}

/// A model of whichever family a folder holds: what a program opens when it does not know what a user points at.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a program holds one or two")]
pub enum AnyModel {
    /// Text to pictures.
    StableDiffusion(Model<StableDiffusion>),
    /// Classes to pictures.
    Classes(Model<PixelClasses>),
}

impl AnyModel {
    /// Opens a model.
    ///
    /// # Errors
    ///
    /// As [`Family::open`].
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        Ok(match ModelFolder::open(&options.model)?.kind()? {
            Kind::StableDiffusion => Self::StableDiffusion(StableDiffusion::open(options)?),
            Kind::Classes => Self::Classes(PixelClasses::open(options)?),
        })
    }

    /// The classes' conditioner of a model of classes.
    pub fn classes(&self) -> Option<&ClassConditioner> {
        match self {
            Self::Classes(model) => Some(&model.conditioner),
            Self::StableDiffusion(_) => None,
        }
    }
}

/// Runs an expression on an [`AnyModel`], whichever family it is of.
#[macro_export]
macro_rules! with_model {
    ($any:expr, $model:ident => $body:expr) => {
        match $any {
            $crate::AnyModel::StableDiffusion($model) => $body,
            $crate::AnyModel::Classes($model) => $body,
        }
    };
}
