use std::fmt::Debug;

use burn::tensor::Tensor;
use dmd_core::Condition;
use dmd_unet::Network;

use crate::families::Part;
use crate::source::Source;
use crate::{Error, Model, Noising, OpenOptions};

/// A family of models: the type of its network, the type of its conditioner, and how its files are opened. A new family
/// needs one `impl` of this trait.
pub trait Family: Debug + Clone + Sized + Send + Sync + 'static {
    /// The network of teacher, fake score and generator.
    type Network: Network;
    /// The type that converts prompts to conditions.
    type Conditioner: Conditioner<Condition = ConditionOf<Self>>;

    /// What the models draw from what input, as a text for users.
    const DESCRIPTION: &'static str;
    /// The parts of a whole model, including the generator.
    const PARTS: &'static [Part];

    /// The noise schedule of a model.
    ///
    /// # Errors
    ///
    /// When the scheduler's configuration is missing, damaged or not supported.
    fn noising(source: &Source) -> Result<Noising, Error>;

    /// The reasons why the parts of a model do not fit each other, one sentence each. The list is empty for a valid
    /// model. Reads no weights.
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

/// Converts prompts to conditions. Prompts are captions or names of classes. Guidance points away from the condition of
/// the empty prompt.
pub trait Conditioner: Debug + Clone + Send + Sync {
    /// The type of the conditions.
    type Condition: Condition;

    /// Whether an empty prompt is a valid request (any class) instead of a mistake.
    const DRAWS_WITHOUT_PROMPT: bool = false;

    /// Whether a condition contains the sizes of a picture ([`Self::sized`]).
    const IS_TOLD_SIZES: bool = false;

    /// Checks that a prompt has a condition. Calls no network.
    ///
    /// # Errors
    ///
    /// When the prompt is too long, or not the name of a class.
    fn check(&self, prompt: &str) -> Result<(), Error>;

    /// The conditions of prompts, one row per prompt.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    fn condition(&self, prompts: &[&str]) -> Result<Self::Condition, Error>;

    /// As [`Self::condition`], without the last `layers` layers of the text encoder.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`]; [`Error::Setting`] when the encoder has too few layers.
    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<Self::Condition, Error>;

    /// The condition that guidance points away from if there is no negative prompt, as one row. It is that of the empty
    /// prompt, unless the family has another.
    ///
    /// # Errors
    ///
    /// As [`Self::condition`].
    fn unconditional(&self) -> Result<Self::Condition, Error> {
        self.condition(&[""])
    }

    /// The same condition for a picture of other sizes than those that the model was trained on. Families without sizes
    /// in their conditions ignore `sizes`.
    fn sized(&self, condition: Self::Condition, sizes: &SizeConditions) -> Self::Condition {
        let _ = sizes;
        condition
    }

    /// As [`Self::condition`], for captions that are used repeatedly. Each caption is encoded alone, so that its
    /// condition does not depend on the other captions of the batch, and the result is kept.
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
    /// [`Error::NoText`] for a family without text; otherwise as [`Self::check`].
    fn text_features(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        let _ = prompts;
        Err(Error::NoText)
    }

    /// Makes a condition from text features.
    ///
    /// # Errors
    ///
    /// [`Error::NoText`] for a family without text, [`Error::Setting`] for features of another shape.
    fn features(&self, features: TextFeatures) -> Result<Self::Condition, Error> {
        let _ = features;
        Err(Error::NoText)
    }

    /// Number of tokens in a prompt's features; `None` for a family without text.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// Whether every value of a condition is finite.
    fn is_finite(condition: &Self::Condition) -> bool;

    /// How many tokens a caption has, and how many fit; `None` if captions are not tokenised.
    ///
    /// # Errors
    ///
    /// When the caption cannot be tokenised.
    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let _ = caption;
        Ok(None)
    }
}

/// The type of a family's conditions.
pub type ConditionOf<F> = <<F as Family>::Network as Network>::Condition;

/// The sizes of a picture that Stable Diffusion XL takes as an input, in pixels. Each is height and width, or top and
/// left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeConditions {
    /// The size of the picture before it was resized for training. A small size gives a blurred picture.
    pub original: (usize, usize),
    /// The position at which the picture was cropped. Anything but (0, 0) gives a cropped picture.
    pub crop: (usize, usize),
    /// The final size of the picture, after resizing and cropping.
    pub target: (usize, usize),
}

impl SizeConditions {
    /// The sizes of a picture that was neither resized nor cropped, which is diffusers' default.
    pub fn of_picture(size: (usize, usize)) -> Self {
        Self { original: size, crop: (0, 0), target: size }
    }

    /// The numbers in the order in which the network takes them.
    pub(crate) fn numbers(&self) -> [f32; 6] {
        let [(a, b), (c, d), (e, f)] = [self.original, self.crop, self.target];
        [a, b, c, d, e, f].map(|number| number as f32)
    }
}

/// Text features, one row per prompt.
#[derive(Debug, Clone)]
pub struct TextFeatures {
    /// Features of the tokens, `[prompts, tokens, width]`.
    pub words: Tensor<3>,
    /// Pooled features of each whole prompt, `[prompts, width]`, for families that have them.
    pub pooled: Option<Tensor<2>>,
}

impl From<Tensor<3>> for TextFeatures {
    fn from(words: Tensor<3>) -> Self {
        Self { words, pooled: None }
    }
}

impl TextFeatures {
    /// The `count` rows from `start` on.
    pub fn rows(&self, start: usize, count: usize) -> Self {
        Self {
            words: self.words.clone().narrow(0, start, count),
            pooled: self.pooled.clone().map(|pooled| pooled.narrow(0, start, count)),
        }
    }
}
