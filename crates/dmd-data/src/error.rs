use std::fmt;
use std::path::{Path, PathBuf};

/// Most problems that one message lists.
const LISTED: usize = 10;

/// What can be wrong with a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the data set cannot be used.
    #[error("data set {path:?}: {reason}")]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Lines of a data set's list, or samples of a tar file, cannot be used; all of them are named at once.
    #[error("data set {path:?}: {}", Listed(path, problems))]
    Lines {
        /// The list, or the tar file.
        path: PathBuf,
        /// Every line with its fault; not empty.
        problems: Vec<Problem>,
    },
    /// Pictures were asked of a data set that has captions alone.
    #[error("{dataset} has captions but no pictures; this training needs pictures too")]
    NoPictures {
        /// The data set.
        dataset: String,
    },
    /// A data set without end was asked for all its examples.
    #[error("{dataset} has no fixed list of examples; use a folder of pictures")]
    Unlisted {
        /// The data set.
        dataset: String,
    },
    /// A picture cannot be written.
    #[error(transparent)]
    Write(#[from] dmd_weights::Error),
}

/// A line of a list, or a sample of a tar file, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line or the sample, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// All that was read of a list, or all that is wrong with it.
///
/// # Errors
///
/// [`Error::Lines`] with every problem.
pub(crate) fn all_or_problems<T>(
    list: &Path,
    read: impl IntoIterator<Item = Result<T, Problem>>,
) -> Result<Vec<T>, Error> {
    let (mut good, mut problems) = (Vec::new(), Vec::new());
    for one in read {
        match one {
            Ok(one) => good.push(one),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(good) } else { Err(Error::Lines { path: list.to_owned(), problems }) }
}

struct Listed<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.0.extension().is_some_and(|ending| ending == "tar") { "sample" } else { "line" };
        for (i, Problem { line, reason }) in self.1.iter().take(LISTED).enumerate() {
            let comma = if i > 0 { "; " } else { "" };
            write!(f, "{comma}{word} {line}: {reason}")?;
        }
        match self.1.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more {word}s"),
        }
    }
}
