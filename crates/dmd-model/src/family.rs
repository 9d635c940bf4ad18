use std::fmt::Debug;

use burn::tensor::Tensor;
use dmd_core::Condition;
use dmd_unet::Network;

use crate::families::Part;
use crate::folder::ModelFolder;
use crate::{Error, Model, Noising, OpenOptions};

/// A family of models: a network, what it is conditioned on, and how prompts become that. A new family is one `impl`.
pub trait Family: Debug + Clone + Sized + Send + Sync + 'static {
    /// The network of teacher, fake score and generator.
    type Network: Network;
    /// What makes conditions of prompts.
    type Conditioner: Conditioner<Condition = ConditionOf<Self>>;

    /// What its models make of what, for a person to read.
    const DESCRIPTION: &'static str;
    /// The parts of a whole model, and the generator.
    const PARTS: &'static [Part];

    /// The noise schedule of a model folder.
    ///
    /// # Errors
    ///
    /// When the scheduler's configuration is missing, damaged or not supported.
    fn noising(folder: &ModelFolder) -> Result<Noising, Error>;

    /// Why the parts of a folder do not belong together, a sentence each; empty for a good model. Reads no weights.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported.
    fn misfits(options: &OpenOptions) -> Result<Vec<String>, Error>;

    /// Reads and compares all configurations, then the weights.
    ///
    /// # Errors
    ///
    /// When a part is missing, damaged, or does not fit the others.
    fn open(options: &OpenOptions) -> Result<Model<Self>, Error>;
}

/// Makes conditions of prompts: captions, or names of classes. The empty prompt is what guidance points away from.
pub trait Conditioner: Debug + Clone + Send + Sync {
    /// What a sample is conditioned on.
    type Condition: Condition;

    /// Whether an empty prompt is a wish of its own (any class) and not a slip.
    const DRAWS_WITHOUT_PROMPT: bool = false;

    /// Refuses a prompt that has no condition, before a network is called.
    ///
    /// # Errors
    ///
    /// When the prompt is too long, or not the name of a class.
    fn check(&self, prompt: &str) -> Result<(), Error>;

    /// The conditions of prompts, one row each.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    fn condition(&self, prompts: &[&str]) -> Result<Self::Condition, Error>;

    /// [`Self::condition`] without the last layers of a text encoder.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`]; [`Error::Setting`] when there are not as many layers.
    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<Self::Condition, Error>;

    /// [`Self::condition`] of captions that come again and again: each is encoded alone, so that a caption's condition
    /// does not depend on its company, and kept.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    fn remembered(&self, captions: &[&str]) -> Result<Self::Condition, Error> {
        self.condition(captions)
    }

    /// The text features of prompts, `[prompts, tokens, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NoText`] for a family without text; as [`Self::check`].
    fn text_features(&self, prompts: &[&str]) -> Result<Tensor<3>, Error> {
        let _ = prompts;
        Err(Error::NoText)
    }

    /// The condition that text features `[pictures, tokens, width]` are.
    ///
    /// # Errors
    ///
    /// [`Error::NoText`] for a family without text, [`Error::Setting`] for features of another shape.
    fn features(&self, features: Tensor<3>) -> Result<Self::Condition, Error> {
        let _ = features;
        Err(Error::NoText)
    }

    /// Tokens of a prompt's features; `None` for a family without text.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// Whether every value of a condition is finite.
    fn is_finite(condition: &Self::Condition) -> bool;

    /// How many tokens a caption has and how many fit; `None` where captions are not tokenised.
    ///
    /// # Errors
    ///
    /// When the caption cannot be tokenised.
    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let _ = caption;
        Ok(None)
    }
}

/// What a family's samples are conditioned on.
pub type ConditionOf<F> = <<F as Family>::Network as Network>::Condition;
