use std::path::PathBuf;

/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Opening the model, or asking it for something it does not have.
    #[error(transparent)]
    Model(#[from] dmd_model::Error),
    /// The file of a comparison.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// A request without a prompt, or a blank one.
    #[error("the prompt is empty; say what to draw")]
    EmptyPrompt,
    /// Not one seed per prompt.
    #[error("{prompts} prompts but {seeds} seeds; give one seed per picture")]
    Seeds {
        /// Number of prompts.
        prompts: usize,
        /// Number of seeds.
        seeds: usize,
    },
    /// A size this model cannot make.
    #[error(
        "pictures of {width}×{height} are not possible: both must be multiples of {multiple}, at least {multiple} and at most {max}"
    )]
    Size {
        /// Width asked for.
        width: usize,
        /// Height asked for.
        height: usize,
        /// What both must be divisible by.
        multiple: usize,
        /// The largest possible.
        max: usize,
    },
    /// A setting that cannot be.
    #[error("{name} {value} is not possible; it must be {wanted}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        wanted: String,
    },
    /// A guidance scale that is not allowed.
    #[error("guidance {scale} is not a number of at least 1")]
    Guidance {
        /// The scale asked for.
        scale: f64,
    },
    /// Two settings that cannot both be followed.
    #[error("{first} and {second} do not go together; leave one of them out")]
    Contradiction {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Something that the caller gave holds a NaN or an infinity.
    #[error("the {what} contain a NaN or an infinity")]
    NotFiniteInput {
        /// What was given.
        what: &'static str,
    },
    /// A stage computed something that is not a number.
    #[error("the {stage} gave numbers that are not finite; this device or precision cannot run this model")]
    NotFinite {
        /// The stage.
        stage: &'static str,
    },
    /// The request was cancelled between two steps.
    #[error("cancelled after {steps} steps")]
    Cancelled {
        /// Sampling steps done.
        steps: usize,
    },
    /// A reference file that does not hold what a comparison needs.
    #[error("{path:?} is not a reference for this model: {reason}")]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is missing or does not fit.
        reason: String,
    },
    /// The PNG encoder failed.
    #[error("cannot encode the picture: {reason}")]
    Encode {
        /// Why.
        reason: String,
    },
}
