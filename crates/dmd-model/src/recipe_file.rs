use std::path::{Path, PathBuf};

use dmd_weights::{is_dir, is_file, read_json, write_json};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The contents of `one_step.json`. Every key may be absent, and unknown keys are refused. A [`Recipe`](crate::Recipe)
/// is the meaning of such a file for a model: the model's schedule gives the values that the file leaves out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timestep: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) noise_scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guidance_scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timesteps: Option<Vec<usize>>,
    /// The name of a published recipe. A file with this key has no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipe: Option<String>,
}

impl RecipeFile {
    /// Name of the file, which is in the same folder as the generator's weights.
    pub const NAME: &str = "one_step.json";

    /// The key in a LoRA file's metadata whose value is the text of such a file.
    pub const METADATA: &str = "dmd_recipe";

    /// The contents for a generator that is called by a published recipe.
    pub(crate) fn named(recipe: &str) -> Self {
        Self { recipe: Some(recipe.to_owned()), ..Self::default() }
    }

    /// Reads the file beside a generator's weights, if it exists. `generator` is a folder or a file.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file is not valid JSON of known keys.
    pub fn beside(generator: &Path) -> Result<Option<Self>, Error> {
        let path = Self::place(generator);
        if is_file(&path) { Ok(Some(read_json(&path)?)) } else { Ok(None) }
    }

    /// Reads the text in a LoRA file's metadata, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] when the text is not JSON of known keys. For a LoRA file that cannot be read the result is
    /// `None`; opening that file later reports the reason.
    pub(crate) fn of_lora(path: &Path) -> Result<Option<Self>, Error> {
        let Ok(Some(text)) = dmd_weights::read_metadata(path, Self::METADATA) else { return Ok(None) };
        let wrong =
            |error: serde_json::Error| Error::Recipe { path: path.to_owned(), reason: error.to_string() };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    /// Writes the file into a generator's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        Ok(write_json(&folder.join(Self::NAME), self)?)
    }

    /// The path of a generator's file.
    pub(crate) fn place(generator: &Path) -> PathBuf {
        if is_dir(generator) { generator.join(Self::NAME) } else { generator.with_file_name(Self::NAME) }
    }
}
