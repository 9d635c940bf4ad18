//! Everything that the program prints. A reader that stops reading (`dmd … | head`, a closed terminal) ends nothing:
//! what was asked for as files is still written, and the lines that nobody reads are dropped without a word.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, StdoutLock, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use indicatif::ProgressDrawTarget;

/// The first failure to print that is not a closed pipe, such as a full disk.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line to standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::console::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints to standard output without ending the line.
macro_rules! say_part {
    ($($text:tt)*) => { $crate::console::out(format_args!($($text)*)) };
}

/// Prints a line to standard error.
macro_rules! say_err {
    ($($text:tt)*) => { $crate::console::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line of progress to standard error, unless `--quiet` was given.
macro_rules! status {
    ($($text:tt)*) => {
        if !$crate::console::is_quiet() { $crate::console::say_err!($($text)*) }
    };
}

/// Prints what a user should know of a command's way, unless `--quiet` was given.
macro_rules! note {
    ($($text:tt)*) => { $crate::console::status!("note: {}", format_args!($($text)*)) };
}

/// Prints a line to standard error where `--verbose` was given.
macro_rules! detail {
    ($($text:tt)*) => {
        if $crate::console::is_verbose() { $crate::console::say_err!($($text)*) }
    };
}

pub(crate) use {detail, note, say, say_err, say_part, status};

/// How much is printed beside what a command was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Errors and warnings alone.
    Quiet = 0,
    /// Notes and progress too.
    Usual = 1,
    /// Files, settings, times and memory too.
    Verbose = 2,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Usual as u8);

/// Sets the level, before anything is printed.
pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

pub(crate) fn is_quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) == Level::Quiet as u8
}

pub(crate) fn is_verbose() -> bool {
    LEVEL.load(Ordering::Relaxed) == Level::Verbose as u8
}

/// Where bars of progress are drawn.
pub(crate) fn bar_target() -> ProgressDrawTarget {
    if is_quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// Of several ranks that print the same lines one is heard.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Drops what this process prints from now on, or does so no longer.
#[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "one process by itself is heard"))]
pub(crate) fn hush(hushed: bool) {
    HUSHED.store(hushed, Ordering::SeqCst);
}

/// Standard output carries a picture: lines go to standard error.
static DIVERTED: AtomicBool = AtomicBool::new(false);

/// Prints every line to standard error from now on: standard output is for bytes.
pub(crate) fn divert() {
    DIVERTED.store(true, Ordering::SeqCst);
}

pub(crate) fn out(text: Arguments<'_>) {
    if DIVERTED.load(Ordering::SeqCst) {
        return status!("{}", text.to_string().trim_end_matches('\n'));
    }
    print(|stream| stream.write_fmt(text));
}

/// Writes bytes to standard output, also where lines are diverted from it.
pub(crate) fn bytes(bytes: &[u8]) {
    print(|stream| stream.write_all(bytes));
}

fn print(write: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>) {
    if HUSHED.load(Ordering::SeqCst) {
        return;
    }
    let mut stream = io::stdout().lock();
    if let Err(error) = write(&mut stream).and_then(|()| stream.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        let mut failed = FAILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failed.get_or_insert(error);
    }
}

/// There is no place left to report that standard error cannot be written.
pub(crate) fn err(text: Arguments<'_>) {
    if HUSHED.load(Ordering::SeqCst) {
        return;
    }
    // In one piece: standard error is not buffered, and other processes may write between two pieces.
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// Whether everything was printed that somebody wanted to read.
///
/// # Errors
///
/// The first failure to write to standard output, unless its reader went away.
pub(crate) fn finish() -> io::Result<()> {
    FAILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().map_or(Ok(()), Err)
}

/// An error with its causes in one line; a cause that is part of what was said already is not repeated.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::sentence;

    #[test]
    fn causes_are_said_once() {
        let error = Err::<(), _>(anyhow!("Is a directory (os error 21)"))
            .context("cannot write \"x\": Is a directory (os error 21)")
            .context("picture 3");
        let said = sentence(&error.expect_err("it was refused"));
        assert_eq!(said, "picture 3: cannot write \"x\": Is a directory (os error 21)");
    }
}
