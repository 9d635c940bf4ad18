use std::fmt;
use std::io;
use std::path::PathBuf;

/// What can be wrong with a model's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not there or cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written; nothing is left under its name.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not a safetensors file: truncated, or its header lies.
    #[error("{path:?} is not a complete safetensors file ({reason}); fetch or export it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A tensor is of a type that no float parameter is made of.
    #[error("tensor {name:?} of {path:?} has type {dtype}; weights are F16, BF16, F32 or F64")]
    DataType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The file's tensors are not the module's.
    #[error("{path:?} does not fit this network: {mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All differences.
        mismatch: Mismatch,
    },
    /// Not JSON, or not the JSON that is expected here.
    #[error("{path:?} is not a valid configuration: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// None of the usual weight file names is in the folder.
    #[error("{folder:?} holds no weights; expected one of {}", .expected.join(", "))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The names looked for.
        expected: Vec<String>,
    },
}

/// Every difference between a file's tensors and a module's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters the file does not have.
    pub missing: Vec<String>,
    /// Tensors the module has no use for.
    pub unused: Vec<String>,
    /// Tensors of another shape.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor whose shape is not the parameter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// The tensor.
    pub name: String,
    /// The parameter's shape, as a file would have it.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub found: Vec<usize>,
}

impl Mismatch {
    /// Whether there is no difference at all.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [("missing", &self.missing), ("unused", &self.unused)] {
            if !names.is_empty() {
                parts.push(format!("{} {what}: {}", names.len(), names.join(", ")));
            }
        }
        if !self.misshapen.is_empty() {
            let each = self
                .misshapen
                .iter()
                .map(|m| format!("{} is {:?}, expected {:?}", m.name, m.found, m.expected));
            parts.push(format!(
                "{} misshapen: {}",
                self.misshapen.len(),
                each.collect::<Vec<_>>().join(", ")
            ));
        }
        f.write_str(&parts.join("; "))
    }
}
