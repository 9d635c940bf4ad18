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
    /// The tokenizer's files ask for tokens that this implementation does not make.
    #[error("tokenizer {path:?}: {key} = {value} is not supported; expected {must}")]
    TokenizerOption {
        /// The folder.
        path: PathBuf,
        /// The option.
        key: String,
        /// Its value, as JSON; the start of a long one.
        value: String,
        /// What would be accepted.
        must: String,
    },
    /// A word cannot be added to the tokenizer.
    #[error("the word {word:?} cannot be added to the tokenizer: {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why.
        reason: String,
    },
    /// A prompt cannot be split into tokens.
    #[error("the prompt {prompt:?} cannot be split into tokens: {reason}")]
    Prompt {
        /// The start of the prompt.
        prompt: String,
        /// Why.
        reason: String,
    },
    /// A prompt has more tokens than the model takes.
    #[error(
        "the prompt has {found} tokens including start and end, but the model takes at most {max}; shorten it: {prompt:?}"
    )]
    TooLong {
        /// The start of the prompt.
        prompt: String,
        /// Its tokens, start and end included.
        found: usize,
        /// The most the model takes.
        max: usize,
    },
}

/// The start of a long text, for an error.
pub(crate) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 100;

    match text.char_indices().nth(LENGTH) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
