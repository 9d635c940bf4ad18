use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::Error;

/// Name of the lock file inside the folder. The file is empty, and it remains after the lock is released.
const NAME: &str = ".lock";

/// A lock that gives one process at a time the right to write into a folder. It is released when this value is dropped.
/// The system also releases it when the process ends for any reason.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of a folder, without waiting for it. A missing folder is created. On a file system without locks
    /// this succeeds without locking.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process holds the lock; [`Error::Write`] when the folder cannot be written to.
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
