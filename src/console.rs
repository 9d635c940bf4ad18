//! Everything that the program prints. A reader that stops reading (`dmd … | head`, a closed terminal) ends nothing:
//! what was asked for as files is still written, and the lines that nobody reads are dropped without a word.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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

pub(crate) use {say, say_err, say_part};

/// Of several ranks that print the same lines one is heard.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Drops what this process prints from now on, or does so no longer.
#[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "one process by itself is heard"))]
pub(crate) fn hush(hushed: bool) {
    HUSHED.store(hushed, Ordering::SeqCst);
}

pub(crate) fn out(text: Arguments<'_>) {
    if HUSHED.load(Ordering::SeqCst) {
        return;
    }
    let mut stream = io::stdout().lock();
    if let Err(error) = stream.write_fmt(text).and_then(|()| stream.flush())
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
    let _ = io::stderr().lock().write_fmt(text);
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
