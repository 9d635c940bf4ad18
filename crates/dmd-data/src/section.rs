use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Background, Dataset, Error, ImageFolder, Prompts, Shapes, shapes};

/// `[data]` of a configuration: where captions and pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum DataSection {
    /// The procedural shapes.
    Shapes {},
    /// A folder of pictures with their captions (see [`ImageFolder`]).
    Folder {
        /// The folder.
        path: PathBuf,
        /// Height and width the pictures are resized to.
        size: u32,
        /// The colour behind transparent parts.
        #[serde(default)]
        background: Background,
    },
    /// A text file of prompts, one per line.
    Prompts {
        /// The file.
        path: PathBuf,
    },
}

impl DataSection {
    /// Opens the data set.
    ///
    /// # Errors
    ///
    /// As [`ImageFolder::open`] and [`Prompts::open`].
    pub fn open(&self) -> Result<Arc<dyn Dataset>, Error> {
        Ok(match self {
            Self::Shapes {} => Arc::new(Shapes),
            Self::Folder { path, size, background } => {
                Arc::new(ImageFolder::open(path, *size)?.with_background(*background))
            }
            Self::Prompts { path } => Arc::new(Prompts::open(path)?),
        })
    }

    /// Height and width of the pictures; `None` for prompts alone.
    pub fn size(&self) -> Option<u32> {
        match self {
            Self::Shapes {} => Some(shapes::SIZE),
            Self::Folder { size, .. } => Some(*size),
            Self::Prompts { .. } => None,
        }
    }
}
