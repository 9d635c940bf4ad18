use std::io;
use std::path::PathBuf;

use crate::Mismatch;

/// Errors of reading and writing a model's files. The message is about the file; the reason that the system or the
/// parser gives is the [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not exist or cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process holds the folder's lock.
    #[error("another process is writing to {folder:?}; wait until it ends, or name another folder")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is not a valid safetensors file: it is truncated, or its header does not describe its content.
    #[error("{path:?} is not a complete safetensors file ({reason}); fetch or export it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// A file's content differs from what the file itself, or the index that names it, says.
    #[error("{path:?} does not have the expected content: {reason}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A PyTorch state dict cannot be read.
    #[error("{path:?} cannot be read as a PyTorch state dict: {reason}")]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A tensor has a type that cannot be read as weights.
    #[error("tensor {name:?} of {path:?} has type {dtype}; weights are F16, BF16, F32, F64 or F8")]
    DataType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A file is not a model of a supported kind.
    #[error("{path:?} is {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What the file is, and what to do.
        reason: String,
    },
    /// A LoRA file cannot be merged.
    #[error("the LoRA {path:?} cannot be merged: {reason}")]
    Lora {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file of textual inversion cannot be used.
    #[error("the embedding {path:?} cannot be used: {reason}")]
    Embedding {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The file's tensors do not fit the module's parameters.
    #[error("{path:?} does not fit this network: {mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All differences.
        mismatch: Mismatch,
    },
    /// A parameter would keep its random values, because the module visits other parameters when they are filled than
    /// when they were counted.
    #[error(
        "parameter {parameter:?} of the network was not filled from {path:?}: a fault of the network's `Module`"
    )]
    Unfilled {
        /// The file.
        path: PathBuf,
        /// The parameter.
        parameter: String,
    },
    /// A finite value would become infinite in the type in which it is to be written or held.
    #[error("tensor {name:?} of {path:?} would be {value:e}, which {dtype} cannot hold; use F32 or BF16")]
    Overflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// The type.
        dtype: String,
    },
    /// The file is not JSON, or not the JSON that is expected.
    #[error("{path:?} is not a valid configuration")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The folder has no file with one of the usual names of weight files.
    #[error("{folder:?} holds no weights that this build reads: expected {}{}", .expected.join(" or "), others(.found))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The names that were looked for, in full precision.
        expected: Vec<String>,
        /// Files in the folder that seem to hold weights.
        found: Vec<String>,
    },
}

/// The part of the message about other files that were found.
fn others(found: &[String]) -> String {
    match found {
        [] => " (or its variant fp16 or bf16)".to_owned(),
        [first] => format!(", found {first:?}; rename it, or name it instead of the folder"),
        [first, rest @ ..] => {
            format!(", found {first:?} and {} more; rename one, or name it instead of the folder", rest.len())
        }
    }
}
