//! The families of models that a folder may hold. A new family is a file of its own and its lines in this one: how its
//! folder is recognised, and a variant of [`Kind`] and of [`AnyModel`].

use dmd_weights::read_config;
use serde::Deserialize;

use crate::classes::ClassConditioner;
use crate::family::Family;
use crate::folder::ModelFolder;
use crate::{Error, Model, Noising, OpenOptions, PixelClasses, StableDiffusion};

/// A part of a model, in a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Words to numbers.
    Tokenizer,
    /// Numbers to features.
    TextEncoder,
    /// The teacher's network.
    UNet,
    /// The distilled generator's network.
    Generator,
    /// Samples to pictures.
    Autoencoder,
    /// The noise schedule and the sampler.
    Scheduler,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 6] =
        [Self::Tokenizer, Self::TextEncoder, Self::UNet, Self::Generator, Self::Autoencoder, Self::Scheduler];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::TextEncoder => "text_encoder",
            Self::UNet => "unet",
            Self::Generator => "unet_one_step",
            Self::Autoencoder => "vae",
            Self::Scheduler => "scheduler",
        }
    }

    /// Whether the folder holds a vocabulary in place of a network.
    pub(crate) fn is_tokenizer(self) -> bool {
        self == Self::Tokenizer
    }
}

/// What kind of model a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stable Diffusion 1.x or 2.x: text to pictures.
    StableDiffusion,
    /// A class-conditional or unconditional network on pixels.
    Classes,
}

/// Evaluates an expression with the family of a kind as a type.
macro_rules! with_family {
    ($kind:expr, $family:ident => $body:expr) => {
        match $kind {
            Kind::StableDiffusion => {
                type $family = StableDiffusion;
                $body
            }
            Kind::Classes => {
                type $family = PixelClasses;
                $body
            }
        }
    };
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "_class_name", default)]
    class: String,
}

impl Kind {
    /// The kind of a folder's model, by the class of its network.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`] when there is no network, or its configuration cannot be read.
    pub fn of(folder: &ModelFolder) -> Result<Self, Error> {
        let part = if folder.has(Part::UNet) { Part::UNet } else { Part::Generator };
        let named: Named = read_config(&folder.need(part)?)?;
        Ok(if named.class == "UNet2DModel" { Self::Classes } else { Self::StableDiffusion })
    }

    /// What models of this kind make of what, for a person to read.
    pub fn description(self) -> &'static str {
        with_family!(self, Of => Of::DESCRIPTION)
    }

    /// The parts of a model of this kind, the generator among them.
    pub fn parts(self) -> &'static [Part] {
        with_family!(self, Of => Of::PARTS)
    }

    /// The noise schedule of a folder of this kind.
    ///
    /// # Errors
    ///
    /// When the scheduler's configuration is missing, damaged or not supported.
    pub fn noising(self, folder: &ModelFolder) -> Result<Noising, Error> {
        with_family!(self, Of => Of::noising(folder))
    }
}

/// Why the parts of a model do not belong together, a sentence each; empty for a good model. Reads no weights.
///
/// # Errors
///
/// When a configuration is missing, damaged or not supported.
pub fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
    with_family!(Kind::of(&ModelFolder::open(&options.model)?)?, Of => Of::misfits(options))
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
        Ok(match Kind::of(&ModelFolder::open(&options.model)?)? {
            Kind::StableDiffusion => Self::StableDiffusion(StableDiffusion::open(options)?),
            Kind::Classes => Self::Classes(PixelClasses::open(options)?),
        })
    }

    /// The classes' conditioner of a model of classes.
    pub fn classes(&self) -> Option<&ClassConditioner> {
        match self {
            Self::Classes(model) => Some(&model.conditioner),
            _ => None,
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
