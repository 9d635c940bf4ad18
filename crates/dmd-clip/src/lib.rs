//! CLIP's tokenizer and text transformer, in the layout of transformers' `CLIPTokenizer` and
//! `CLIPTextModel`: prompts in, text features `[batch, tokens, width]` out. [`ClipModel`] adds the picture half,
//! for the CLIP score.

mod config;
mod encoder;
mod error;
mod model;
mod projected;
mod score;
mod tokenizer;
mod vocabulary;
mod weights;

pub use config::{HiddenActivation, TextConfig};
pub use encoder::{TextEncoder, ids_tensor};
pub use error::Error;
pub use model::ClipTextModel;
pub use projected::{ProjectedText, ProjectedTextEncoder, ProjectedTextModel};
pub use score::{ClipConfig, ClipModel, VisionConfig};
pub use tokenizer::Tokenizer;
pub use vocabulary::{Padding, Vocabulary};
pub use weights::CLIP_KEYS;

/// The example of the package's page is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
