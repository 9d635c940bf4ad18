//! The file operations after which something could be lost, one function each, so that a test can let any of them
//! fail. Each makes what it did durable: a file or folder is on the disk when its function returns.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What befalls the file operations of a test's thread.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation of this number fails, counted from 0; later ones work: a full disk, say.
    Fails(usize),
    /// The operation of this number stops halfway, and nothing happens after it: the process was killed there.
    Killed(usize),
}

thread_local! {
    static PLAN: Cell<Option<(Fault, usize)>> = const { Cell::new(None) };
}

/// Runs `work` with a fault in this crate's file operations on this thread, and counts them. For tests.
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

/// An operation that happens whole or not at all.
fn whole<T>(operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match step() {
        Step::Works => operation(),
        _ => Err(injected()),
    }
}

/// Whether a test has killed this process: what would clean up after an error does not run then either.
pub(crate) fn is_killed() -> bool {
    matches!(PLAN.get(), Some((Fault::Killed(at), number)) if number > at)
}

/// A file that is written piece by piece.
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

/// Makes a folder and those above it.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    whole(|| fs::create_dir_all(path))
}

/// Gives a file or folder another name in the same folder, in the place of a file that has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    whole(|| fs::rename(from, to))?;
    sync_folder(to.parent().unwrap_or(Path::new("")))
}

/// Removes a folder with all that it holds; one that does not exist is removed already.
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

/// Waits until a file is on the disk. Faults are not those of the power: tests with one need not wait.
fn sync(file: &File) -> io::Result<()> {
    if PLAN.get().is_some() { Ok(()) } else { file.sync_all() }
}

pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    whole(|| sync(file))
}

/// Makes the names in a folder durable, where the system can do that.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let synced = whole(|| if cfg!(unix) { sync(&File::open(path)?) } else { Ok(()) });
    match synced {
        // Some network file systems cannot, and a folder that may be written to need not be readable.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Makes a folder and all that it holds durable.
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
