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
    #[error("{path:?} does not hold what it should: {reason}")]
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
    #[error("{folder:?} holds no weights that this build reads; expected one of {}", .expected.join(", "))]
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

/// Missing names that are given a suggestion: a file of quite another network has thousands.
const SUGGESTIONS: usize = 12;

/// How alike two names are, from 0 to 1, before one is suggested for the other: at most one letter
/// in five differs.
const NEAR: f64 = 0.8;

impl Mismatch {
    /// The unused tensor whose name is nearest to a missing one, if one is near.
    pub fn near(&self, missing: &str) -> Option<&str> {
        let likeness = |name: &str| strsim::normalized_damerau_levenshtein(missing, name);
        let candidates = self.unused.iter().map(|name| (likeness(name), name.as_str()));
        let best = candidates.max_by(|a, b| a.0.total_cmp(&b.0));
        best.filter(|(likeness, _)| *likeness >= NEAR).map(|(_, name)| name)
    }

    /// Whether there is no difference at all.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            let each = self.missing.iter().enumerate().map(|(i, name)| match self.near(name) {
                Some(near) if i < SUGGESTIONS => format!("{name} (is it {near}?)"),
                _ => name.clone(),
            });
            parts.push(format!("{} missing: {}", self.missing.len(), each.collect::<Vec<_>>().join(", ")));
        }
        if !self.unused.is_empty() {
            parts.push(format!("{} unused: {}", self.unused.len(), self.unused.join(", ")));
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
