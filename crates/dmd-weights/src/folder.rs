use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, write_atomic};

/// `model_index.json`: which class each sub-folder of a diffusers folder belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelIndex {
    /// The pipeline, `StableDiffusionPipeline`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Every other entry: `[library, class]` for a component, or an option of the pipeline.
    #[serde(flatten)]
    pub entries: BTreeMap<String, Value>,
}

/// Reads a JSON file.
///
/// # Errors
///
/// [`Error::Read`] when it cannot be read, [`Error::Json`] when it is not what is expected.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Reads `config.json` of a component's folder.
///
/// # Errors
///
/// As [`read_json`].
pub fn read_config<T: DeserializeOwned>(folder: &Path) -> Result<T, Error> {
    read_json(&folder.join("config.json"))
}

/// Writes a JSON file, indented, whole or not at all.
///
/// # Errors
///
/// [`Error::Write`] when it cannot be written, [`Error::Json`] when `value` has no JSON form.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

/// The weight file of a component's folder, for the first of `stems` that has one: full precision
/// before the `fp16` variant, one file before shards, safetensors before a PyTorch state dict
/// (`.bin`, feature `pytorch`).
///
/// # Errors
///
/// [`Error::NoWeights`] when there is none.
pub fn weight_file(folder: &Path, stems: &[&str]) -> Result<PathBuf, Error> {
    let mut expected = Vec::new();
    for stem in stems {
        expected.extend([
            format!("{stem}.safetensors"),
            format!("{stem}.safetensors.index.json"),
            format!("{stem}.fp16.safetensors"),
            format!("{stem}.safetensors.index.fp16.json"),
            format!("{stem}.fp16.safetensors.index.json"),
        ]);
    }
    if cfg!(feature = "pytorch") {
        // transformers' own name for a state dict.
        for stem in stems.iter().chain(&["pytorch_model"]) {
            expected.extend([format!("{stem}.bin"), format!("{stem}.fp16.bin")]);
        }
    }
    expected
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NoWeights { folder: folder.to_owned(), expected: expected.clone() })
}
