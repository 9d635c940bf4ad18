//! The families of models. A new family needs a file of its own and additions to this file: how its folder is
//! recognised, and a variant of [`Kind`] and of [`AnyModel`].

use serde::Deserialize;

use crate::classes::ClassConditioner;
use crate::family::Family;
use crate::loras::{Change, LoraOption, Loras};
use crate::networks::generator_recipe;
use crate::source::Source;
use crate::{
    Error, Model, Noising, OpenOptions, PixelClasses, StableDiffusion, StableDiffusionXl, TextToImage,
    TextToImageXl,
};

/// A part of a model. In a model folder, each part has a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Converts text to tokens.
    Tokenizer,
    /// Converts tokens to features.
    TextEncoder,
    /// Converts text to tokens of the second text encoder.
    Tokenizer2,
    /// Converts tokens to features, and to pooled features of the whole prompt.
    TextEncoder2,
    /// The teacher's network.
    UNet,
    /// The distilled generator's network.
    Generator,
    /// Converts samples to pictures and back.
    Autoencoder,
    /// The noise schedule and the sampler.
    Scheduler,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 8] = [
        Self::Tokenizer,
        Self::TextEncoder,
        Self::Tokenizer2,
        Self::TextEncoder2,
        Self::UNet,
        Self::Generator,
        Self::Autoencoder,
        Self::Scheduler,
    ];

    /// The name of the part's folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::TextEncoder => "text_encoder",
            Self::Tokenizer2 => "tokenizer_2",
            Self::TextEncoder2 => "text_encoder_2",
            Self::UNet => "unet",
            Self::Generator => "unet_one_step",
            Self::Autoencoder => "vae",
            Self::Scheduler => "scheduler",
        }
    }

    /// The part's name in messages.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::TextEncoder => "text encoder",
            Self::Tokenizer2 => "second tokenizer",
            Self::TextEncoder2 => "second text encoder",
            Self::UNet => "UNet",
            Self::Generator => "distilled generator",
            Self::Autoencoder => "autoencoder",
            Self::Scheduler => "scheduler",
        }
    }

    /// Whether the part is a tokenizer.
    pub(crate) fn is_tokenizer(self) -> bool {
        matches!(self, Self::Tokenizer | Self::Tokenizer2)
    }
}

/// The kind of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stable Diffusion 1.x or 2.x: text to pictures.
    StableDiffusion,
    /// Stable Diffusion XL: text to pictures.
    StableDiffusionXl,
    /// A class-conditional or unconditional network on pixels.
    Classes,
}

/// Evaluates an expression in which `$family` is the type of a kind's family.
macro_rules! with_family {
    ($kind:expr, $family:ident => $body:expr) => {
        match $kind {
            Kind::StableDiffusion => {
                type $family = StableDiffusion;
                $body
            }
            Kind::StableDiffusionXl => {
                type $family = StableDiffusionXl;
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
    #[serde(default)]
    addition_embed_type: Option<String>,
}

impl Kind {
    /// The kind of a model, according to the class of its network and the network's additional conditions.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`] when there is no network, or its configuration cannot be read.
    pub fn of(source: &Source) -> Result<Self, Error> {
        let part = if source.has(Part::UNet) { Part::UNet } else { Part::Generator };
        if let Some(published) = source.published() {
            return Ok(published.kind());
        }
        let named: Named = source.config(part)?;
        Ok(match named.addition_embed_type.as_deref() {
            _ if named.class == "UNet2DModel" => Self::Classes,
            Some("text_time") => Self::StableDiffusionXl,
            _ => Self::StableDiffusion,
        })
    }

    /// What the models of this kind draw from what input, as a text for users.
    pub fn description(self) -> &'static str {
        with_family!(self, Of => Of::DESCRIPTION)
    }

    /// The parts of a model of this kind, including the generator.
    pub fn parts(self) -> &'static [Part] {
        with_family!(self, Of => Of::PARTS)
    }

    /// The noise schedule of a model of this kind.
    ///
    /// # Errors
    ///
    /// When the scheduler's configuration is missing, damaged or not supported.
    pub fn noising(self, source: &Source) -> Result<Noising, Error> {
        with_family!(self, Of => Of::noising(source))
    }
}

/// The reasons why the parts of a model do not fit each other, one sentence each. The list is empty for a valid model.
/// Reads no weights.
///
/// # Errors
///
/// When a configuration is missing, damaged or not supported.
pub fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error> {
    with_family!(Kind::of(&Source::open(options)?)?, Of => Of::misfits(options))
}

/// A model of any family, for programs that do not know in advance which family the user's model has.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a program holds one or two")]
pub enum AnyModel {
    /// Stable Diffusion 1.x or 2.x: text to pictures.
    StableDiffusion(Model<StableDiffusion>),
    /// Stable Diffusion XL: text to pictures.
    StableDiffusionXl(Model<StableDiffusionXl>),
    /// A network on pixels: classes to pictures.
    Classes(Model<PixelClasses>),
}

impl AnyModel {
    /// Opens a model.
    ///
    /// # Errors
    ///
    /// As [`Family::open`].
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        Ok(match Kind::of(&Source::open(options)?)? {
            Kind::StableDiffusion => Self::StableDiffusion(StableDiffusion::open(options)?),
            Kind::StableDiffusionXl => Self::StableDiffusionXl(StableDiffusionXl::open(options)?),
            Kind::Classes => Self::Classes(PixelClasses::open(options)?),
        })
    }

    /// Replaces the LoRA files that the model was opened with by others, or by the same files at other strengths. Reads
    /// again only the layers that an old or a new file changes. The result is bit for bit that of opening the model
    /// with the new files. `options` must be the options of the opening; afterwards they name the new files. On an
    /// error the model stays unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] when the change would alter how the generator is called, or whether there is one; also any
    /// error of opening or merging a LoRA file.
    pub fn change_loras(&mut self, options: &mut OpenOptions, loras: Vec<LoraOption>) -> Result<(), Error> {
        let after = OpenOptions { loras, ..options.clone() };
        if generator_recipe(options)? != generator_recipe(&after)? {
            return Err(Error::Setting {
                setting: "a LoRA file that changes how the generator is called".to_owned(),
                hint: "open the model anew".to_owned(),
            });
        }
        let change = Change { before: Loras::open(options).ok(), after: Loras::open(&after)? };
        match self {
            Self::StableDiffusion(model) => StableDiffusion::change_loras(model, change, &after)?,
            Self::StableDiffusionXl(model) => StableDiffusionXl::change_loras(model, change, &after)?,
            Self::Classes(_) => {
                return Err(Error::Setting {
                    setting: "a LoRA file".to_owned(),
                    hint: "there are none for models of classes".to_owned(),
                });
            }
        }
        *options = after;
        Ok(())
    }

    /// The conditioner of a model of classes; `None` for any other model.
    pub fn classes(&self) -> Option<&ClassConditioner> {
        match self {
            Self::Classes(model) => Some(&model.conditioner),
            _ => None,
        }
    }
}

/// Evaluates an expression on the [`Model`](crate::Model) in an [`AnyModel`], whatever its family.
#[macro_export]
macro_rules! with_model {
    ($any:expr, $model:ident => $body:expr) => {
        match $any {
            $crate::AnyModel::StableDiffusion($model) => $body,
            $crate::AnyModel::StableDiffusionXl($model) => $body,
            $crate::AnyModel::Classes($model) => $body,
        }
    };
}

/// A text-conditional model of any family, which is read part by part ([`TextParts`](crate::TextParts)).
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a program holds one")]
pub enum AnyText {
    /// Stable Diffusion 1.x or 2.x.
    StableDiffusion(TextToImage),
    /// Stable Diffusion XL.
    StableDiffusionXl(TextToImageXl),
}

impl AnyText {
    /// Reads every configuration and compares the parts.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported; [`Error::Misfit`] when parts do not fit,
    /// [`Error::NoText`] for a model of classes.
    pub fn open(options: &OpenOptions) -> Result<Self, Error> {
        match Kind::of(&Source::open(options)?)? {
            Kind::StableDiffusion => TextToImage::open(options).map(Self::StableDiffusion),
            Kind::StableDiffusionXl => TextToImageXl::open(options).map(Self::StableDiffusionXl),
            Kind::Classes => Err(Error::NoText),
        }
    }
}

/// Evaluates an expression on the parts in an [`AnyText`], whatever their family.
#[macro_export]
macro_rules! with_text {
    ($any:expr, $parts:ident => $body:expr) => {
        match $any {
            $crate::AnyText::StableDiffusion($parts) => $body,
            $crate::AnyText::StableDiffusionXl($parts) => $body,
        }
    };
}
