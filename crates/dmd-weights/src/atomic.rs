//! Writes files so that they are always complete: a reader finds the old content or the new.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, disk};

/// Size of the write buffer in bytes.
const BUFFER: usize = 1 << 20;

/// Maximum number of symbolic links that are followed from a name to its file; the same number as in Linux.
const LINKS: usize = 40;

/// How a file is written under a name.
enum Target {
    /// Write a file beside this path, then rename it to this path.
    Beside(PathBuf),
    /// Write into the existing pipe or device of this name, which must not be replaced.
    Into(PathBuf),
}

/// Writes bytes so that the file is always complete: they are written to a temporary file beside it, which is made
/// durable and then renamed. Missing parent folders are created. If `path` is a symbolic link, the file that it leads
/// to is replaced and the link stays. A pipe or a device is written into.
///
/// # Errors
///
/// [`Error::Write`] when a step fails, or when `path` is a folder. The old content then stays, and no temporary file is
/// left.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |out| {
        out.write_all(bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
    })
}

/// As [`write_atomic`], with the content that `fill` writes.
pub(crate) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    match target(path).map_err(failed)? {
        Target::Into(existing) => {
            let file = OpenOptions::new().append(true).open(existing).map_err(failed)?;
            let mut out = BufWriter::with_capacity(BUFFER, file);
            fill(&mut out)?;
            out.flush().map_err(failed)
        }
        Target::Beside(file) => {
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            if !parent.is_dir() {
                disk::create_folders(parent).map_err(failed)?;
            }
            let mut sibling = sibling(parent).map_err(failed)?;
            let written = write_beside(&mut sibling, fill, &failed)
                .and_then(|()| disk::rename(sibling.path(), &file).map_err(failed));
            // After the renaming no temporary file exists, and a killed process would not clean up.
            sibling.disable_cleanup(written.is_ok() || disk::is_killed());
            written
        }
    }
}

fn sibling(parent: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dmd-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The permissions of any new file: the system removes those in the user's umask.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(parent)
}

fn write_beside(
    sibling: &mut tempfile::NamedTempFile,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    failed: &impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    let mut out = BufWriter::with_capacity(BUFFER, disk::Written(sibling.as_file_mut()));
    let filled = fill(&mut out).and_then(|()| out.flush().map_err(failed));
    // Dropping the writer itself would try to write the rest of the buffer again.
    drop(out.into_parts());
    filled?;
    disk::sync_file(sibling.as_file()).map_err(failed)
}

fn target(path: &Path) -> io::Result<Target> {
    match fs::metadata(path) {
        // This includes folders. Opening one for writing returns an error that says that it is a folder.
        Ok(found) if !found.is_file() => return Ok(Target::Into(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = path.to_owned();
    for _ in 0..LINKS {
        if !fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink()) {
            return Ok(Target::Beside(file));
        }
        // `/dev/stdout` leads to an open file of this process, which may have no name.
        if file.starts_with("/proc") {
            return Ok(Target::Into(path.to_owned()));
        }
        let leads_to = fs::read_link(&file)?;
        file = file.parent().unwrap_or(Path::new("")).join(leads_to);
    }
    Err(io::Error::other("too many links"))
}
