use std::io;
use std::path::PathBuf;

use crate::Repository;

/// Errors of fetching files from the hub or its cache. The underlying error is the [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text does not name a repository.
    #[error("{text:?} is not a repository of the hub, OWNER/NAME or OWNER/NAME@REVISION: {reason}")]
    NotARepository {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable of the environment has a value that cannot be used.
    #[error("{variable} cannot be used: {reason}")]
    Setting {
        /// The variable.
        variable: String,
        /// What is wrong with it. The text does not contain a token.
        reason: String,
    },
    /// The hub has no such repository, or it is private.
    #[error("the hub has no repository {repository}, or it is private: check its name{}", token_hint(.with_token))]
    RepositoryNotFound {
        /// `OWNER/NAME`.
        repository: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("repository {repository} has no revision {revision:?}")]
    RevisionNotFound {
        /// `OWNER/NAME`.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("repository {repository} has no file {file:?}")]
    FileNotFound {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// The user has to accept the repository's conditions first.
    #[error("repository {repository} is gated: accept its conditions on the page {page} and {}", gate_hint(.with_token))]
    Gated {
        /// `OWNER/NAME`.
        repository: String,
        /// The address of the page with the conditions.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub does not accept the token.
    #[error("the hub does not accept the token: make a new one and set HF_TOKEN, or unset it")]
    TokenRefused,
    /// The hub, or a server to which it redirects, still answers with another error after all retries.
    #[error("{host} answers with status {status}{}", .message.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// The server's message.
        message: Option<String>,
    },
    /// The host cannot be reached, or the connection breaks repeatedly.
    #[error("{host} cannot be reached, or its connection breaks")]
    Network {
        /// The host.
        host: String,
        /// The system's error.
        source: Box<ureq::Error>,
    },
    /// The connection cannot be encrypted, mostly because a certificate is not trusted.
    #[error(
        "the connection to {host} is not safe; if a proxy stands in between, set SSL_CERT_FILE to the file of its certificates"
    )]
    Encryption {
        /// The host.
        host: String,
        /// What is wrong.
        source: Box<ureq::Error>,
    },
    /// The server's answer does not have the form of a hub's answer.
    #[error("{host} does not answer as a hub does: {reason}")]
    Answer {
        /// The host.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the repository has a name that is not a safe path.
    #[error(
        "repository {repository} holds a file named {name:?}, which is not written to the disk: {reason}"
    )]
    Name {
        /// `OWNER/NAME`.
        repository: String,
        /// The name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A received file differs from the hub's list. It was deleted.
    #[error("what was received as {file:?} is not the hub's file and was deleted: {reason}; try again")]
    Corrupt {
        /// The file, by its path in the repository.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The disk is full. The received part stays, and the next call resumes from it.
    #[error("the disk is full: {file:?} needs {missing} bytes more in {folder:?}")]
    DiskFull {
        /// The file, by its path in the repository.
        file: String,
        /// Number of bytes that were still to be written.
        missing: u64,
        /// The folder.
        folder: PathBuf,
    },
    /// A file or folder of the cache cannot be read or written.
    #[error("cannot use {path:?} of the hub's cache")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The cache lacks something, and there is no network or it must not be used.
    #[error("the cache lacks {}, and {}", list(.missing), absence(.source))]
    NotCached {
        /// The missing repository, or the missing files.
        missing: Vec<String>,
        /// Why the hub cannot be asked; `None` if `HF_HUB_OFFLINE` forbids it.
        source: Option<Box<Error>>,
    },
    /// The repository has no usable files.
    #[error("{what}: {}", found(.files))]
    NothingUsable {
        /// What is missing.
        what: String,
        /// What the repository has instead.
        files: Vec<String>,
    },
    /// The repository has several files that may be the model.
    #[error("the repository holds several files of weights; name one as OWNER/NAME:FILE: {}", .files.join(", "))]
    SeveralFiles {
        /// All of these files.
        files: Vec<String>,
    },
    /// The function that receives the progress cancelled the call. The received part stays, and the next call resumes
    /// from it.
    #[error("fetching was cancelled")]
    Cancelled,
}

impl Error {
    /// Returns a function that turns an I/O error into an error about a path of the cache.
    pub(crate) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { path, source }
    }

    /// Returns a function that makes the error about an unsafe path of a repository.
    pub(crate) fn name(repository: &Repository, name: &str) -> impl FnOnce(&'static str) -> Self {
        move |reason| Self::Name { repository: repository.name().to_owned(), name: name.to_owned(), reason }
    }

    /// Whether the error means that the hub cannot be reached for now, so that the cache may be used instead.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Network { .. } | Self::Encryption { .. } | Self::Status { status: 408 | 429 | 500.., .. }
        )
    }
}

fn token_hint(with_token: &bool) -> &'static str {
    if *with_token { " and that the token may read it" } else { ", and set HF_TOKEN if it is private" }
}

fn gate_hint(with_token: &bool) -> &'static str {
    if *with_token { "use the token of the account that did so in HF_TOKEN" } else { "set HF_TOKEN" }
}

fn absence(source: &Option<Box<Error>>) -> &'static str {
    match source {
        Some(_) => "the hub cannot be asked",
        None => "HF_HUB_OFFLINE forbids to fetch it",
    }
}

/// Formats the first few of many names.
fn list(names: &[String]) -> String {
    match names.len() {
        0..=3 => names.join(", "),
        more => format!("{} and {} more", names[..3].join(", "), more - 3),
    }
}

fn found(files: &[String]) -> String {
    if files.is_empty() { "there is none".to_owned() } else { format!("found {}", list(files)) }
}
