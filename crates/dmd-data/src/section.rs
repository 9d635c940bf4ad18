use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Background, Dataset, Error, ImageFolder, Mirrored, Prompts, Shapes, WebDataset, shapes};

/// `[data]` of a configuration: where captions and pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum DataSection {
    /// Coloured shapes that are painted when they are needed; no file is read.
    Shapes {},
    /// A folder of pictures with a list of their captions, `metadata.jsonl` or `metadata.csv`.
    Folder(Pictures),
    /// Tar files of pictures with their captions, as WebDataset writes them: a tar file, a folder of them, a pattern, or a
    /// sequence such as `train-{000..009}.tar`.
    Webdataset(Pictures),
    /// Prompts without pictures: a text file with one per line, or a `.jsonl` file with an object per line.
    Prompts {
        /// The file with the prompts.
        path: PathBuf,
        /// Name of the prompt in the objects of a `.jsonl` file. By default it is the first of `prompt`, `text` and
        /// `caption` that an object has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

/// Pictures with captions, and how they are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictures {
    /// The folder or the tar files.
    pub path: PathBuf,
    /// Height and width to which pictures are resized.
    pub size: u32,
    /// The colour behind transparent parts.
    #[serde(default)]
    pub background: Background,
    /// Show each picture mirrored as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub flip: bool,
}

impl Pictures {
    fn shown(&self, dataset: impl Dataset + 'static) -> Arc<dyn Dataset> {
        let dataset = Arc::new(dataset);
        if self.flip { Arc::new(Mirrored::new(dataset)) } else { dataset }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl DataSection {
    /// Opens the data set.
    ///
    /// # Errors
    ///
    /// As [`ImageFolder::open`], [`WebDataset::open`] and [`Prompts::open_with_key`].
    pub fn open(&self) -> Result<Arc<dyn Dataset>, Error> {
        Ok(match self {
            Self::Shapes {} => Arc::new(Shapes),
            Self::Folder(pictures) => {
                let folder = ImageFolder::open(&pictures.path, pictures.size)?;
                pictures.shown(folder.with_background(pictures.background))
            }
            Self::Webdataset(pictures) => {
                let tars = WebDataset::open(&pictures.path, pictures.size)?;
                pictures.shown(tars.with_background(pictures.background))
            }
            Self::Prompts { path, key } => Arc::new(Prompts::open_with_key(path, key.as_deref())?),
        })
    }

    /// Height and width of the pictures; `None` for prompts alone.
    pub fn size(&self) -> Option<u32> {
        match self {
            Self::Shapes {} => Some(shapes::SIZE),
            Self::Folder(pictures) | Self::Webdataset(pictures) => Some(pictures.size),
            Self::Prompts { .. } => None,
        }
    }
}
