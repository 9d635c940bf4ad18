//! A model folder in diffusers' layout. Only this module knows the paths of its parts.

use std::fs;
use std::path::{Path, PathBuf};

use dmd_weights::{is_dir, is_file, read_json};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::families::Part;

/// A model folder.
#[derive(Debug, Clone)]
pub struct ModelFolder(PathBuf);

impl ModelFolder {
    /// Names a folder that is to be written, or that is known to hold a model. Checks nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Names an existing folder, and checks that it holds a model.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`] when the folder does not look like a model folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Err(Error::NoModel { folder: path.to_owned(), reason });
        if is_file(path) {
            return wrong(
                "it is a file; give the folder that holds unet, vae, scheduler and so on".to_owned(),
            );
        }
        if !is_dir(path) {
            return wrong("it does not exist".to_owned());
        }
        let folder = Self::new(path);
        if folder.has(Part::UNet) || folder.has(Part::Generator) {
            return Ok(folder);
        }
        if let Some(snapshot) = snapshot(path) {
            return wrong(format!("it is a cache of the Hugging Face hub; its model is {snapshot:?}"));
        }
        wrong(format!("it has neither {} nor {}", Part::UNet.name(), Part::Generator.name()))
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the folder has a part.
    pub fn has(&self, part: Part) -> bool {
        is_dir(&self.part(part))
    }

    /// The path of a part's folder, whether it exists or not.
    pub fn part(&self, part: Part) -> PathBuf {
        self.0.join(part.name())
    }

    /// The path of a part's folder, which must exist.
    ///
    /// # Errors
    ///
    /// [`Error::NoModel`] when it does not exist.
    pub fn need(&self, part: Part) -> Result<PathBuf, Error> {
        if self.has(part) {
            return Ok(self.part(part));
        }
        Err(self.lacks(part))
    }

    /// The error for a missing part.
    pub(crate) fn lacks(&self, part: Part) -> Error {
        Error::NoModel { folder: self.0.clone(), reason: format!("it has no {}", part.name()) }
    }

    /// Reads `scheduler_config.json`.
    pub(crate) fn scheduler<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(read_json(&scheduler_file(&self.need(Part::Scheduler)?))?)
    }

    /// The path of `classes.json`, the list of the classes' names. Not every folder has it.
    pub(crate) fn classes_file(&self) -> PathBuf {
        self.0.join("classes.json")
    }

    /// The path of `model_index.json`.
    pub(crate) fn index_file(&self) -> PathBuf {
        self.0.join("model_index.json")
    }
}

pub(crate) fn scheduler_file(folder: &Path) -> PathBuf {
    folder.join("scheduler_config.json")
}

/// The newest snapshot of a folder in the hub's cache, `models--org--name`.
fn snapshot(path: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(path.join("snapshots")).ok()?;
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
}
