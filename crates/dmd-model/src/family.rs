use std::fmt::Debug;

use burn::tensor::Tensor;
use dmd_core::Condition;
use dmd_unet::Network;

use crate::families::Part;
use crate::source::Source;
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

    /// The noise schedule of a model.
    ///
    /// # Errors
    ///
    /// When the scheduler's configuration is missing, damaged or not supported.
    fn noising(source: &Source) -> Result<Noising, Error>;

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

    /// Whether a condition holds the sizes of a picture ([`Self::sized`]).
    const IS_TOLD_SIZES: bool = false;

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

    /// The condition that guidance points away from where there is no negative prompt, one row: the empty prompt's,
    /// unless the family has another.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`].
    fn unconditional(&self) -> Result<Self::Condition, Error> {
        self.condition(&[""])
    }

    /// The same condition for a picture of other sizes than those that the model was trained on; families that are not
    /// told sizes ignore them.
    fn sized(&self, condition: Self::Condition, sizes: &SizeConditions) -> Self::Condition {
        let _ = sizes;
        condition
    }

    /// [`Self::condition`] of captions that come again and again: each is encoded alone, so that a caption's condition
    /// does not depend on its company, and kept.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    fn remembered(&self, captions: &[&str]) -> Result<Self::Condition, Error> {
        self.condition(captions)
    }

    /// The text features of prompts.
    ///
    /// # Errors
    ///
    /// [`Error::NoText`] for a family without text; as [`Self::check`].
    fn text_features(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        let _ = prompts;
        Err(Error::NoText)
    }

    /// The condition that text features are.
    ///
    /// # Errors
    ///
    /// [`Error::NoText`] for a family without text, [`Error::Setting`] for features of another shape.
    fn features(&self, features: TextFeatures) -> Result<Self::Condition, Error> {
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

/// What Stable Diffusion XL is told of a picture's sizes, in pixels; each is height and width, or top and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeConditions {
    /// The size that the picture had before it was resized for training: a small one asks for a blurred picture.
    pub original: (usize, usize),
    /// Where the picture was cut: anything but (0, 0) asks for a cropped one.
    pub crop: (usize, usize),
    /// The size that the picture was made for.
    pub target: (usize, usize),
}

impl SizeConditions {
    /// A picture of a size that was neither resized nor cut: diffusers' default.
    pub fn of_picture(size: (usize, usize)) -> Self {
        Self { original: size, crop: (0, 0), target: size }
    }

    /// In the order in which the network is told them.
    pub(crate) fn numbers(&self) -> [f32; 6] {
        let [(a, b), (c, d), (e, f)] = [self.original, self.crop, self.target];
        [a, b, c, d, e, f].map(|number| number as f32)
    }
}

/// Text features, one row per prompt.
#[derive(Debug, Clone)]
pub struct TextFeatures {
    /// Features of the words, `[prompts, tokens, width]`.
    pub words: Tensor<3>,
    /// Features of each whole prompt, `[prompts, width]`, for families that have them.
    pub pooled: Option<Tensor<2>>,
}

impl From<Tensor<3>> for TextFeatures {
    fn from(words: Tensor<3>) -> Self {
        Self { words, pooled: None }
    }
}

impl TextFeatures {
    /// Some of the rows.
    pub fn rows(&self, start: usize, count: usize) -> Self {
        Self {
            words: self.words.clone().narrow(0, start, count),
            pooled: self.pooled.clone().map(|pooled| pooled.narrow(0, start, count)),
        }
    }
}
