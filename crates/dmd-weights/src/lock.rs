use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::Error;

/// The file inside a folder that carries its lock. It stays, empty, when the lock is given back.
const NAME: &str = ".lock";

/// The right to write into a folder, held by one process at a time. It is given back when this is dropped and, by the
/// system, when the process ends in whatever way.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of a folder, which is made where it does not exist. It does not wait. On a file system without
    /// locks it succeeds without one.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process holds it; [`Error::Write`] when the folder cannot be written to.
    pub fn take(folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        let file =
            options.create(true).truncate(false).write(true).open(folder.join(NAME)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { folder: folder.to_owned() }),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Self { _file: file })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
