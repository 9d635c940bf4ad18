//! The file operations that could lose data, one function each, so that a test can make any of them fail. Each function
//! returns only when its result is durable on the disk.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// A fault that a test injects into the file operations of its thread.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation with this number, counted from 0, fails, and later ones work. An example is a full disk.
    Fails(usize),
    /// The operation with this number stops halfway, and no later one has an effect, as if the process had been killed.
    Killed(usize),
}

thread_local! {
    static PLAN: Cell<Option<(Fault, usize)>> = const { Cell::new(None) };
}

/// Runs `work` with a fault in this crate's file operations on this thread, and returns how many operations there were.
/// For tests.
#[doc(hidden)]
pub fn with_fault<T>(fault: Fault, work: impl FnOnce() -> T) -> (T, usize) {
    PLAN.set(Some((fault, 0)));
    let result = work();
    let operations = PLAN.take().map_or(0, |(_, operations)| operations);
    (result, operations)
}

/// What the next operation does.
enum Step {
    Works,
    StopsHalfway,
    DoesNothing,
}

fn step() -> Step {
    let Some((fault, number)) = PLAN.get() else { return Step::Works };
    PLAN.set(Some((fault, number + 1)));
    match fault {
        Fault::Fails(at) | Fault::Killed(at) if at == number => Step::StopsHalfway,
        Fault::Killed(at) if at < number => Step::DoesNothing,
        _ => Step::Works,
    }
}

fn injected() -> io::Error {
    io::Error::other("a test lets this operation fail")
}

/// Runs an operation that happens completely or not at all.
fn whole<T>(operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match step() {
        Step::Works => operation(),
        _ => Err(injected()),
    }
}

/// Whether a test simulates that this process was killed. Code that cleans up after an error must not run then.
pub(crate) fn is_killed() -> bool {
    matches!(PLAN.get(), Some((Fault::Killed(at), number)) if number > at)
}

/// A writer whose single writes can be made to fail.
pub(crate) struct Written<W>(pub(crate) W);

impl<W: Write> Write for Written<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match step() {
            Step::Works => self.0.write(bytes),
            Step::StopsHalfway => self.0.write_all(&bytes[..bytes.len() / 2]).and(Err(injected())),
            Step::DoesNothing => Err(injected()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Creates a folder and its missing parents.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    whole(|| fs::create_dir_all(path))
}

/// Renames a file or folder within its parent folder. A file that already has the new name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    whole(|| fs::rename(from, to))?;
    sync_folder(to.parent().unwrap_or(Path::new("")))
}

/// Removes a folder with its content. It is no error if the folder does not exist.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let result = match step() {
        Step::Works => fs::remove_dir_all(path),
        Step::DoesNothing => return Err(injected()),
        Step::StopsHalfway => {
            if let Some(first) = fs::read_dir(path).ok().and_then(|mut entries| entries.next()) {
                fs::remove_file(first?.path())?;
            }
            return Err(injected());
        }
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Waits until a file is on the disk. Tests with a fault do not wait, because they do not simulate a loss of power.
fn sync(file: &File) -> io::Result<()> {
    if PLAN.get().is_some() { Ok(()) } else { file.sync_all() }
}

pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    whole(|| sync(file))
}

/// Makes the entries of a folder durable, where the system can do that.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = whole(|| if cfg!(unix) { sync(&File::open(path)?) } else { Ok(()) });
    match synced {
        // Some network file systems cannot sync a folder, and a folder with write permission may lack read permission.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Makes a folder and all of its content durable.
pub(crate) fn sync_all_within(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_all_within(&entry.path())?;
        } else if kind.is_file() {
            sync_file(&File::open(entry.path())?)?;
        }
    }
    sync_folder(folder)
}
