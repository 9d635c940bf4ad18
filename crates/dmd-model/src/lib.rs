//! An opened diffusion model: its conditioner, its network, its noise schedule, the codec from samples to pictures, and
//! the distilled generator with its recipe.
//!
//! This is the only crate that opens, checks and writes model folders. A [`Family`] defines which parts belong
//! together. [`Model`] is a model of one family. [`AnyModel`] is a model of the family that a folder holds.

mod autoencoder;
mod builtin;
mod classes;
mod codec;
mod convert;
mod describe;
mod embeddings;
mod error;
mod families;
mod family;
mod fit;
mod folder;
mod loras;
mod model;
mod networks;
mod noising;
mod options;
mod outline;
mod pixel_classes;
pub mod pixels;
mod published;
mod recipe;
mod recipe_file;
mod source;
mod stable_diffusion;
mod stable_diffusion_xl;
mod teacher_files;
mod text;
mod text_parts;

pub use autoencoder::{AutoencoderFiles, read_autoencoder, write_autoencoder};
pub use classes::ClassConditioner;
pub use codec::Codec;
pub use convert::convert;
pub use describe::{Description, describe};
pub use embeddings::EmbeddingOption;
pub use error::Error;
pub use families::{AnyModel, AnyText, Kind, Part, misfits};
pub use family::{ConditionOf, Conditioner, Family, SizeConditions, TextFeatures};
pub use folder::ModelFolder;
pub use loras::LoraOption;
pub use model::{Distilled, Model};
pub use networks::{NetworkFiles, generator_recipe};
pub use noising::{Noising, Plan};
pub use options::{Networks, OpenOptions, check_dtype};
pub use outline::Outline;
pub use pixel_classes::PixelClasses;
pub use recipe::{Recipe, TeacherOf};
pub use recipe_file::RecipeFile;
pub use source::Source;
pub use stable_diffusion::{
    MAX_TOKENS, StableDiffusion, TextToImage, read_tokenizer, write_teacher, write_tokenizer,
};
pub use stable_diffusion_xl::{StableDiffusionXl, TextToImageXl, XlConditioner};
pub use text::TextConditioner;
pub use text_parts::TextParts;

/// Compiles and runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
