//! A folder that is always whole: the old content or the new, wherever its writing is cut off.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, disk};

/// A folder whose content is replaced as one: a checkpoint, say.
///
/// The new content is written into `NAME.part`. Once all of it is on the disk, the folder is renamed to `NAME.next`: this
/// is the moment at which the new content counts. Then the old folder is removed and `NAME.next` takes its name. A process
/// that is killed before that moment leaves the old content, and one that is killed after it the new; the next
/// [`Self::replace`] finishes or clears what it left, and [`Self::newest`] finds it until then. One process at a time may
/// write: take a [`FolderLock`](crate::FolderLock).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFolder {
    path: PathBuf,
}

impl WholeFolder {
    /// The folder of this name, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The name that the folder has while nobody writes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the newest whole content lies, if there is any. Changes nothing.
    pub fn newest(&self) -> Option<PathBuf> {
        [self.sibling(".next"), self.path.clone()].into_iter().find(|folder| folder.is_dir())
    }

    /// Replaces the content by what `fill` writes into an empty folder, which it is given.
    ///
    /// # Errors
    ///
    /// What `fill` returns, or [`Error::Write`] when a file operation fails. The old content then stays, unless
    /// [`Self::newest`] already is the new one.
    pub fn replace<E: From<Error>>(&self, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        let failed = |source| E::from(self.failed(source));
        self.settle()?;
        let part = self.sibling(".part");
        disk::create_folders(&part).map_err(failed)?;
        fill(&part)?;
        disk::sync_all_within(&part)
            .and_then(|()| disk::rename(&part, &self.sibling(".next")))
            .and_then(|()| self.clear())
            .map_err(failed)
    }

    /// Finishes what a killed process began, or clears it away: afterwards no `NAME.part` and no `NAME.next` exist.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a file operation fails.
    pub fn settle(&self) -> Result<(), Error> {
        self.clear().map_err(|source| self.failed(source))
    }

    /// Removes the folder. A process that is killed meanwhile leaves it whole, or nothing that [`Self::newest`] finds.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a file operation fails.
    pub fn remove(&self) -> Result<(), Error> {
        self.settle()?;
        if !self.path.is_dir() {
            return Ok(());
        }
        let part = self.sibling(".part");
        disk::rename(&self.path, &part)
            .and_then(|()| disk::remove_folder(&part))
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }

    fn clear(&self) -> io::Result<()> {
        disk::remove_folder(&self.sibling(".part"))?;
        let next = self.sibling(".next");
        if next.is_dir() {
            // The old content is of no use any more: `next` is whole.
            disk::remove_folder(&self.path)?;
            disk::rename(&next, &self.path)?;
        }
        Ok(())
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(suffix);
        self.path.with_file_name(name)
    }
}
