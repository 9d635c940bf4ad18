//! A folder that always has complete content, the old or the new, wherever its writing is interrupted.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, disk};

/// A folder whose content is replaced as a whole, such as a checkpoint.
///
/// The new content is written into `NAME.part`. Once all of it is on the disk, the folder is renamed to `NAME.next`.
/// From this moment on the new content is valid. Then the old folder is removed and `NAME.next` is renamed to `NAME`.
/// If the process is killed before that moment, the old content is valid; if it is killed later, the new content is.
/// Until the next [`Self::replace`] finishes or removes what the killed process left, [`Self::newest`] finds the valid
/// content. Only one process at a time may write: take a [`FolderLock`](crate::FolderLock).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFolder {
    path: PathBuf,
}

impl WholeFolder {
    /// Names the folder, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the folder while no process writes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that has the newest complete content, if there is one. Changes nothing on the disk.
    pub fn newest(&self) -> Option<PathBuf> {
        [self.sibling(".next"), self.path.clone()].into_iter().find(|folder| folder.is_dir())
    }

    /// Replaces the content. `fill` receives the path of an empty folder and writes the new content into it.
    ///
    /// # Errors
    ///
    /// Any error of `fill`, or [`Error::Write`] when a file operation fails. The old content then stays, unless
    /// [`Self::newest`] already finds the new content.
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

    /// Finishes or removes what a killed process began. Afterwards neither `NAME.part` nor `NAME.next` exists.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when a file operation fails.
    pub fn settle(&self) -> Result<(), Error> {
        self.clear().map_err(|source| self.failed(source))
    }

    /// Removes the folder. If the process is killed meanwhile, [`Self::newest`] finds the complete folder or no folder.
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
            // `next` is complete, so the old content is not needed any more.
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
