use std::path::PathBuf;

/// Errors of drawing pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be opened, or does not have what the request needs.
    #[error(transparent)]
    Model(#[from] dmd_model::Error),
    /// An error of the reference file of a comparison.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The request has no prompt, or a blank prompt.
    #[error("the prompt is empty; say what to draw")]
    EmptyPrompt,
    /// The numbers of prompts and seeds differ.
    #[error("{prompts} prompts but {seeds} seeds; give one seed per picture")]
    Seeds {
        /// Number of prompts.
        prompts: usize,
        /// Number of seeds.
        seeds: usize,
    },
    /// The model cannot draw pictures of this size.
    #[error(
        "pictures of {width}×{height} are not possible: both must be multiples of {multiple}, at least {multiple} and at most {max}"
    )]
    Size {
        /// The requested width.
        width: usize,
        /// The requested height.
        height: usize,
        /// The number by which both must be divisible.
        multiple: usize,
        /// The largest possible side.
        max: usize,
    },
    /// A setting has an impossible value.
    #[error("{name} {value} is not possible; it must be {wanted}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        wanted: String,
    },
    /// The guidance scale is not allowed.
    #[error("guidance {scale} is not a number of at least 1")]
    Guidance {
        /// The requested scale.
        scale: f64,
    },
    /// Two settings contradict each other.
    #[error("{first} and {second} do not go together; leave one of them out")]
    Contradiction {
        /// One of the settings.
        first: &'static str,
        /// The other setting.
        second: &'static str,
    },
    /// An input of the caller contains a NaN or an infinity.
    #[error("the {what} contain a NaN or an infinity")]
    NotFiniteInput {
        /// The input.
        what: &'static str,
    },
    /// The output of a stage contains a NaN or an infinity.
    #[error("the {stage} gave numbers that are not finite; this device or precision cannot run this model")]
    NotFinite {
        /// The stage.
        stage: &'static str,
    },
    /// The observer cancelled the request.
    #[error("cancelled after {steps} steps")]
    Cancelled {
        /// Number of finished sampling steps of the pictures that were being drawn.
        steps: usize,
    },
    /// The reference file does not have what a comparison needs.
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
        /// The reason.
        reason: String,
    },
}
