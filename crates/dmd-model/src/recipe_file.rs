use std::path::{Path, PathBuf};

use dmd_weights::{is_dir, is_file, read_json, write_json};
use serde::{Deserialize, Serialize};

use crate::Error;

/// `one_step.json` as it is written. Every key may be absent, no other key is known; [`Recipe`](crate::Recipe) is what it
/// means for a model, whose schedule says what the file leaves out.
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
    /// The name of a published recipe, in place of all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipe: Option<String>,
}

impl RecipeFile {
    /// The file's name, beside the generator's weights.
    pub const NAME: &str = "one_step.json";

    /// The key of a LoRA file's metadata under which the text of such a file stands.
    pub const METADATA: &str = "dmd_recipe";

    /// The file of a generator that is called by a published recipe.
    pub(crate) fn named(recipe: &str) -> Self {
        Self { recipe: Some(recipe.to_owned()), ..Self::default() }
    }

    /// Reads the file beside a generator's weights (a folder, or a file), where there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] when the file is not valid JSON of known keys.
    pub fn beside(generator: &Path) -> Result<Option<Self>, Error> {
        let path = Self::place(generator);
        if is_file(&path) { Ok(Some(read_json(&path)?)) } else { Ok(None) }
    }

    /// Reads the text in a LoRA file's metadata, where there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] when the text is not JSON of known keys. A file that cannot be read has none; opening it says why.
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
    /// [`Error::Weights`] when it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        Ok(write_json(&folder.join(Self::NAME), self)?)
    }

    /// Where the file of a generator lies.
    pub(crate) fn place(generator: &Path) -> PathBuf {
        if is_dir(generator) { generator.join(Self::NAME) } else { generator.with_file_name(Self::NAME) }
    }
}
