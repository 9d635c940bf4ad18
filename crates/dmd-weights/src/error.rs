use std::io;
use std::path::PathBuf;

use crate::Mismatch;

/// What can be wrong with a model's files. The text is about the file; the system's or parser's reason is the
/// [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not there or cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written; nothing is left under its name.
    #[error("cannot write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the folder's lock.
    #[error("another process is writing to {folder:?}; wait until it ends, or name another folder")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The bytes are not a safetensors file: truncated, or its header lies.
    #[error("{path:?} is not a complete safetensors file ({reason}); fetch or export it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A file does not hold what it, or what names it, says.
    #[error("{path:?} does not have the expected content: {reason}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A PyTorch state dict that cannot be read.
    #[error("{path:?} cannot be read as a PyTorch state dict: {reason}")]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A tensor is of a type that no float parameter is made of.
    #[error("tensor {name:?} of {path:?} has type {dtype}; weights are F16, BF16, F32, F64 or F8")]
    DataType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A file that is no model of a supported kind.
    #[error("{path:?} is {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A LoRA file that cannot be merged.
    #[error("the LoRA {path:?} cannot be merged: {reason}")]
    Lora {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of textual inversion that cannot be used.
    #[error("the embedding {path:?} cannot be used: {reason}")]
    Embedding {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file's tensors are not the module's.
    #[error("{path:?} does not fit this network: {mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All differences.
        mismatch: Mismatch,
    },
    /// A parameter would keep its random values: the module shows other parameters when they are filled than when they
    /// were counted.
    #[error(
        "parameter {parameter:?} of the network was not filled from {path:?}: a fault of the network's `Module`"
    )]
    Unfilled {
        /// The file.
        path: PathBuf,
        /// The parameter.
        parameter: String,
    },
    /// A finite value that is infinite in the type it is to be written or held in.
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
    /// Not JSON, or not the JSON that is expected here.
    #[error("{path:?} is not a valid configuration")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// None of the usual weight file names is in the folder.
    #[error("{folder:?} holds no weights that this build reads: expected {}{}", .expected.join(" or "), others(.found))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The names looked for, in full precision.
        expected: Vec<String>,
        /// Files in the folder that seem to hold weights.
        found: Vec<String>,
    },
}

/// What was found in the place of what was looked for.
fn others(found: &[String]) -> String {
    match found {
        [] => " (or its variant fp16 or bf16)".to_owned(),
        [first] => format!(", found {first:?}; rename it, or name it instead of the folder"),
        [first, rest @ ..] => {
            format!(", found {first:?} and {} more; rename one, or name it instead of the folder", rest.len())
        }
    }
}
