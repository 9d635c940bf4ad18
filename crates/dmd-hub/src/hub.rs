use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::cache::Cache;
use crate::download::download;
use crate::listing::page;
use crate::repository::{is_commit, is_safe_path};
use crate::settings::Settings;
use crate::wire::{Client, retries};
use crate::{Entry, Error, Listing, Progress, Repository, Selection};

/// Maximum number of pages of a list of files.
const PAGES: usize = 1000;

/// The Hugging Face hub, and the cache of its files.
pub struct Hub {
    client: Client,
    cache: PathBuf,
    offline: bool,
    symlinks: bool,
}

/// Files of one commit in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder that holds the files under their paths. It may also hold files of the commit that other calls
    /// fetched.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// The selected files.
    pub selection: Selection,
}

impl Snapshot {
    /// The path of the model to open: the folder, or the single file of the selection.
    pub fn model(&self) -> PathBuf {
        match &self.selection.single {
            Some(file) => self.folder.join(file),
            None => self.folder.clone(),
        }
    }
}

/// A list of files, and how it was found.
struct Found {
    listing: Listing,
    /// Whether the commit of the revision comes from the hub's answer in this call.
    looked_up: bool,
    /// Why the hub could not be asked, if the cache was used instead.
    absence: Option<Error>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

impl Hub {
    /// Makes a hub with the settings in the environment variables, which are those of `huggingface_hub`:
    ///
    /// | variable | what it says |
    /// | --- | --- |
    /// | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` | the folder of the cache |
    /// | `HF_HOME` | the folder above it; `XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` where it is not set |
    /// | `HF_TOKEN`, `HF_TOKEN_PATH` | the token, or the file with it; `HF_HOME/token` where neither is set |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | `1`: no token is sent |
    /// | `HF_ENDPOINT` | the hub's address, `https://huggingface.co` |
    /// | `HF_HUB_OFFLINE` | `1`: no connection is made |
    /// | `HF_HUB_DISABLE_SYMLINKS` | `1`: the cache holds files in the place of links |
    /// | `HF_HUB_DOWNLOAD_TIMEOUT` | how many seconds a connection may be silent, 30 |
    /// | `SSL_CERT_FILE` | the file of the certificates to trust; Mozilla's, compiled in, where it is not set |
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if a value cannot be used, [`Error::Cache`] if the token's file cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`Hub::from_env`], but a function returns the values of the variables. This is for options of a program that
    /// override the environment, and for tests. Proxies are read from the environment itself, if `variable` has one of
    /// their variables too.
    ///
    /// # Errors
    ///
    /// As [`Hub::from_env`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let settings = Settings::read(variable)?;
        let client = Client::new(&settings)?;
        Ok(Self { client, cache: settings.cache, offline: settings.offline, symlinks: settings.symlinks })
    }

    /// Sets the pause before the first retry, which is one second by default. Each further pause is twice as long. If a
    /// server asks for a longer pause, that one is used.
    #[must_use]
    pub fn with_retry_pause(mut self, pause: Duration) -> Self {
        self.client.pause = pause;
        self
    }

    /// The path of the cache, which holds the repositories' folders.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Lists the files of a repository. This takes one request for the commit of a branch or tag, and one or more
    /// requests for a list that the cache does not have. Without a network the result is the list of the last known
    /// commit or, without such a list, the files in the cache.
    ///
    /// # Errors
    ///
    /// If the hub or the cache does not have what is needed.
    pub fn list(&self, repository: &Repository) -> Result<Listing, Error> {
        self.find(repository, &mut || Ok(())).map(|found| found.listing)
    }

    /// Fetches the files that `choose` selects into the cache, except those that it already has. All files are of one
    /// commit. If `repository` names a file, that file is fetched and `choose` is not called.
    ///
    /// `progress` is called for each piece that arrives, and ten times a second during a wait for a retry or for
    /// another process that fetches the same file. Its result may cancel the call. What has arrived then stays, and the
    /// next call resumes from it.
    ///
    /// # Errors
    ///
    /// If the hub or the cache does not have what is needed; any error of `choose`; [`Error::Corrupt`] for a file that
    /// differs from the hub's; [`Error::Cancelled`].
    pub fn fetch(
        &self,
        repository: &Repository,
        choose: impl FnOnce(&[Entry]) -> Result<Selection, Error>,
        mut progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Snapshot, Error> {
        let mut report = |now: Progress<'_>| match progress(&now) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        };
        let nothing = Progress { file: "", file_done: 0, file_total: 0, done: 0, total: 0 };
        let Found { listing, looked_up, absence } = self.find(repository, &mut || report(nothing))?;
        let selection = match repository.file() {
            Some(file) => named(repository, &listing.entries, file)?,
            None => choose(&listing.entries)?,
        };
        for entry in &selection.files {
            is_safe_path(&entry.path).map_err(Error::name(repository, &entry.path))?;
        }
        let cache = self.cache_of(repository);
        let commit = &listing.commit;
        let missing: Vec<&Entry> = selection.files.iter().filter(|entry| !cache.has(commit, entry)).collect();
        if !missing.is_empty() && (self.offline || absence.is_some()) {
            let missing = missing.iter().map(|entry| entry.path.clone()).collect();
            return Err(Error::NotCached { missing, source: absence.map(Box::new) });
        }
        let total = missing.iter().map(|entry| entry.size).sum();
        let mut before = 0;
        for entry in missing {
            download(&self.client, &cache, repository, commit, entry, |file_done| {
                let (file, file_total) = (entry.path.as_str(), entry.size);
                report(Progress { file, file_done, file_total, done: before + file_done, total })
            })?;
            before += entry.size;
        }
        // The branch is updated only now, so that without a network it leads to a commit whose files are in the cache.
        if looked_up {
            cache.refer(repository.revision(), commit);
        }
        Ok(Snapshot { folder: cache.snapshot(commit), commit: listing.commit, selection })
    }

    fn cache_of(&self, repository: &Repository) -> Cache {
        Cache::new(&self.cache, repository, self.symlinks)
    }

    fn find(
        &self,
        repository: &Repository,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Found, Error> {
        let cache = self.cache_of(repository);
        let revision = repository.revision();
        let mut absence = None;
        let mut looked_up = false;
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            let cached = cache.reference(revision);
            if self.offline {
                cached.ok_or_else(|| not_cached(repository, None))?
            } else {
                let usable = cached.filter(|commit| cache.snapshot(commit).is_dir());
                match (self.look_up(repository, usable.is_some(), go_on), usable) {
                    (Ok(commit), _) => {
                        looked_up = true;
                        commit
                    }
                    (Err(error), Some(commit)) if error.is_absence() => {
                        absence = Some(error);
                        commit
                    }
                    (Err(error), _) => return Err(error),
                }
            }
        };
        let entries = match cache.listing(&commit) {
            Some(entries) => entries,
            None if self.offline || absence.is_some() => match cache.files(&commit) {
                Some(entries) => entries,
                None => return Err(not_cached(repository, absence)),
            },
            None => match (self.entries(repository, &commit, go_on), cache.files(&commit)) {
                (Ok(entries), _) => {
                    cache.keep_listing(&commit, &entries);
                    entries
                }
                (Err(error), Some(entries)) if error.is_absence() => {
                    absence = Some(error);
                    entries
                }
                (Err(error), _) => return Err(error),
            },
        };
        Ok(Found { listing: Listing { commit, entries }, looked_up, absence })
    }

    /// Asks the hub for the commit of a branch or tag.
    fn look_up(
        &self,
        repository: &Repository,
        cached: bool,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<String, Error> {
        let url = self.client.revision(repository);
        let (text, _) = self.client.text(repository, &url, retries(cached), go_on)?;
        let answer: Option<Revision> = serde_json::from_str(&text).ok();
        match answer {
            Some(Revision { sha }) if is_commit(&sha) => Ok(sha),
            _ => Err(self.answer("it does not name the revision's commit".to_owned())),
        }
    }

    /// Asks the hub for all files of a commit.
    fn entries(
        &self,
        repository: &Repository,
        commit: &str,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Vec<Entry>, Error> {
        let cached = self.cache_of(repository).snapshot(commit).is_dir();
        let mut entries = Vec::new();
        let mut next = Some(self.client.tree(repository, commit));
        for _ in 0..PAGES {
            let Some(url) = next else {
                entries.sort_by(|a: &Entry, b| a.path.cmp(&b.path));
                entries.dedup_by(|a, b| a.path == b.path);
                return Ok(entries);
            };
            let (text, link) = self.client.text(repository, &url, retries(cached), &mut *go_on)?;
            entries.extend(page(&text).map_err(|reason| self.answer(reason))?);
            next = link;
        }
        Err(self.answer(format!("its list of files has more than {PAGES} pages")))
    }

    fn answer(&self, reason: String) -> Error {
        Error::Answer { host: self.client.host(), reason }
    }
}

impl fmt::Debug for Hub {
    /// Does not print the token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

fn not_cached(repository: &Repository, absence: Option<Error>) -> Error {
    Error::NotCached { missing: vec![repository.to_string()], source: absence.map(Box::new) }
}

/// Selects the file that a repository's name ends with.
fn named(repository: &Repository, entries: &[Entry], file: &str) -> Result<Selection, Error> {
    Selection::file(entries, file).ok_or_else(|| Error::FileNotFound {
        repository: repository.name().to_owned(),
        file: file.to_owned(),
    })
}
