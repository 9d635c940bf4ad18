use std::path::PathBuf;

/// Why a prompt cannot be encoded, or a text encoder not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The files themselves.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The configuration asks for something this implementation does not compute.
    #[error("text encoder configuration: {key} = {value} is not supported; {hint}")]
    Unsupported {
        /// The option.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        hint: String,
    },
    /// The vocabulary or the merges are damaged.
    #[error("tokenizer {path:?}: {reason}")]
    Tokenizer {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A prompt has more tokens than the model takes.
    #[error(
        "the prompt has {found} tokens with start and end, the model takes {max}; shorten it: {prompt:?}"
    )]
    TooLong {
        /// The prompt.
        prompt: String,
        /// Its tokens, start and end included.
        found: usize,
        /// The most the model takes.
        max: usize,
    },
}
