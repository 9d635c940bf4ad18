//! Files that are always whole: the old content or the new.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, disk};

/// Bytes that are collected before the system is asked to write them.
const BUFFER: usize = 1 << 20;

/// Links that are followed from a name to its file, as many as Linux follows.
const LINKS: usize = 40;

/// How a file is written under a name.
enum Target {
    /// Beside this path, then renamed to it.
    Beside(PathBuf),
    /// Into what already has the name: a pipe or a device, which must not be replaced.
    Into(PathBuf),
}

/// Writes bytes so that the file is always whole: they are written beside it, made durable and renamed to its name.
/// Missing parent folders are made. Where `path` is a symbolic link, the file it leads to is replaced and the link
/// stays. A pipe or a device is written into.
///
/// # Errors
///
/// [`Error::Write`] when a step fails, or when `path` is a folder. The old content stays, and nothing is left beside it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |out| {
        out.write_all(bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
    })
}

/// [`write_atomic`] with what `fill` writes.
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
            // Nothing is left to clean up after the renaming, and a killed process cleans nothing up.
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
        // As any other new file: what the user's mask leaves of it.
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
    // Dropping the writer would try to write the rest once more.
    drop(out.into_parts());
    filled?;
    disk::sync_file(sibling.as_file()).map_err(failed)
}

fn target(path: &Path) -> io::Result<Target> {
    match fs::metadata(path) {
        // A folder, too: opening it for writing is an error that says so.
        Ok(found) if !found.is_file() => return Ok(Target::Into(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = path.to_owned();
    for _ in 0..LINKS {
        if !fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink()) {
            return Ok(Target::Beside(file));
        }
        // /dev/stdout leads to an open file of this process, which need not have a name.
        if file.starts_with("/proc") {
            return Ok(Target::Into(path.to_owned()));
        }
        let leads_to = fs::read_link(&file)?;
        file = file.parent().unwrap_or(Path::new("")).join(leads_to);
    }
    Err(io::Error::other("too many links"))
}
