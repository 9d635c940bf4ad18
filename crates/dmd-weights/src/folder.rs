use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

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
