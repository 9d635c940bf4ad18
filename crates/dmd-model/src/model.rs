use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::{Denoiser, FewStep, Guided};

use crate::classes::ClassConditioner;
use crate::family::{Conditioner, Family};
use crate::folder::{Kind, ModelFolder, Part};
use crate::{Codec, Error, Noising, PixelClasses, Recipe, StableDiffusion};

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

    /// Whether a generator and a teacher are to be read, given which are there.
    pub(crate) fn wanted(&self, generator: bool, teacher: bool) -> (bool, bool) {
        match self.networks {
            Networks::All => (generator, teacher),
            Networks::Generator => (generator, false),
            Networks::Teacher => (false, teacher),
            Networks::GeneratorFirst => (generator, teacher && !generator),
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

const NO_GENERATOR: Error = Error::Missing {
    wanted: "one-step generator (folder unet_one_step)",
    hint: "ask for the teacher with a number of steps (--steps 30), name a generator (--generator FILE), or distil one (`dmd distill`)",
};

const NO_TEACHER: Error =
    Error::Missing { wanted: "teacher (folder unet)", hint: "ask for the distilled generator instead" };

/// Why no network of a model was read.
pub(crate) fn no_network(options: &OpenOptions) -> Error {
    if options.networks == Networks::Teacher { NO_TEACHER } else { NO_GENERATOR }
}

/// An opened model.
#[derive(Debug, Clone)]
pub struct Model<F: Family> {
    /// Prompts to conditions.
    pub conditioner: F::Conditioner,
    /// The network's configuration.
    pub config: F::Config,
    /// The teacher's network, without guidance.
    pub teacher: Option<F::Network>,
    /// The distilled generator.
    pub generator: Option<Distilled<F::Network>>,
    /// Noise schedule and samplers.
    pub noising: Noising,
    /// Samples to pictures.
    pub codec: Codec,
    /// The teacher's guidance where nobody names one: what the generator was distilled with, otherwise the family's
    /// usual.
    pub guidance_scale: f64,
    /// Shape of a sample of the size that the model was trained on, `[channels, height, width]`.
    pub shape: [usize; 3],
    /// By how much the network halves a sample: its sides must be multiples of this.
    pub multiple: usize,
    /// Where the networks live.
    pub device: Device,
}

impl<F: Family> Model<F> {
    /// The teacher's network.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when the model was opened without.
    pub fn teacher(&self) -> Result<&F::Network, Error> {
        self.teacher.as_ref().ok_or(NO_TEACHER)
    }

    /// The distilled generator.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when there is none.
    pub fn generator(&self) -> Result<&Distilled<F::Network>, Error> {
        self.generator.as_ref().ok_or(NO_GENERATOR)
    }

    /// The teacher under classifier-free guidance, its network in a float type.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without a teacher; what the conditioner returns for the empty prompt.
    pub fn guided(&self, scale: f64, dtype: FloatDType) -> Result<Guided<F::Network>, Error> {
        let network = self.teacher()?.clone();
        let network = if dtype == FloatDType::F32 { network } else { F::in_precision(network, dtype) };
        Ok(Guided::new(network, self.conditioner.condition(&[""])?, scale))
    }

    /// Height and width of the pictures that the model was trained on.
    pub fn picture_size(&self) -> (usize, usize) {
        let [_, height, width] = self.shape;
        (height * self.codec.factor(), width * self.codec.factor())
    }

    /// What both sides of a picture must be multiples of.
    pub fn picture_multiple(&self) -> usize {
        self.multiple * self.codec.factor()
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
        let scale = self.recipe.noise_scale;
        let mut x = if scale == 1.0 { z } else { z * scale };
        for step in 0..self.recipe.steps() {
            if step > 0 {
                x = self.network.renoise(step, x, draw());
            }
            x = self.network.call(step, x, condition);
            if on_step(step + 1, &x).is_break() {
                return None;
            }
        }
        Some(x)
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
    let noising = match folder.kind()? {
        Kind::StableDiffusion => Noising::preserving(folder.scheduler()?)?,
        Kind::Classes => Noising::exploding(folder.scheduler()?)?,
    };
    Recipe::beside(&place, &noising).map(Some)
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
