use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::embedded::is_file;

/// The contents of `model_index.json`, which says what class each sub-folder of a diffusers folder belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelIndex {
    /// The class of the pipeline, e.g. `StableDiffusionPipeline`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Every other entry: `[library, class]` for a component, or an option of the pipeline.
    #[serde(flatten)]
    pub entries: BTreeMap<String, Value>,
}

/// Variants of a weight file's name, in the order in which they are tried: f32 without a suffix, f16, bf16.
const VARIANTS: [&str; 3] = ["", ".fp16", ".bf16"];

/// Endings of weight files of any format.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "ckpt", "msgpack", "h5"];

/// The weight file in a component's folder. The `stems` of the name are tried in order. For each, full precision comes
/// before the variants `fp16` and `bf16`, and one file before shards. PyTorch state dicts (`.bin`, feature `pytorch`)
/// come last.
///
/// # Errors
///
/// [`Error::NoWeights`] when the folder has no such file. The error names files that hold weights under another name.
pub fn weight_file(folder: &Path, stems: &[&str]) -> Result<PathBuf, Error> {
    let mut expected = Vec::new();
    for (stem, variant) in stems.iter().flat_map(|stem| VARIANTS.map(|variant| (stem, variant))) {
        expected.push(format!("{stem}{variant}.safetensors"));
        expected.push(format!("{stem}.safetensors.index{variant}.json"));
        if !variant.is_empty() {
            expected.push(format!("{stem}{variant}.safetensors.index.json"));
        }
    }
    if cfg!(feature = "pytorch") {
        // `pytorch_model` is transformers' name for a state dict.
        for (stem, variant) in
            stems.iter().chain(&["pytorch_model"]).flat_map(|stem| VARIANTS.map(|variant| (stem, variant)))
        {
            expected.push(format!("{stem}{variant}.bin"));
        }
    }
    expected.iter().map(|name| folder.join(name)).find(|path| is_file(path)).ok_or_else(|| {
        let expected = stems.iter().map(|stem| format!("{stem}.safetensors")).collect();
        Error::NoWeights { folder: folder.to_owned(), expected, found: other_weights(folder) }
    })
}

/// Sorted names of the files in a folder that seem to hold weights.
fn other_weights(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ending = |name: &String| name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending));
    let mut names: Vec<String> = names.filter(ending).collect();
    names.sort();
    names
}
