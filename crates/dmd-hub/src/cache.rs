use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::listing::{Entry, store, stored};
use crate::repository::{is_commit, is_safe_path};
use crate::wire::sleep;
use crate::{Error, Repository};

/// The folder of one repository in the cache of `huggingface_hub`.
pub(crate) struct Cache {
    root: PathBuf,
    name: String,
    symlinks: bool,
}

/// The lock that gives the right to fetch one file.
pub(crate) struct FileLock {
    _file: File,
    /// Whether the file system supports locks.
    pub(crate) real: bool,
}

impl Cache {
    pub(crate) fn new(root: &Path, repository: &Repository, symlinks: bool) -> Self {
        let name = format!("models--{}", repository.name().replace('/', "--"));
        Self { root: root.to_owned(), name, symlinks }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The path of the folder with a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The path of a file's content.
    pub(crate) fn blob(&self, hex: &str) -> PathBuf {
        self.folder().join("blobs").join(hex)
    }

    /// The path of a commit's file.
    fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        let mut pointer = self.snapshot(commit);
        pointer.extend(path.split('/'));
        pointer
    }

    /// Whether the cache has a commit's file completely.
    pub(crate) fn has(&self, commit: &str, entry: &Entry) -> bool {
        is_file_of(&self.pointer(commit, &entry.path), entry.size)
    }

    /// Whether the cache has a file's content completely, under its hash.
    pub(crate) fn has_blob(&self, hex: &str, size: u64) -> bool {
        is_file_of(&self.blob(hex), size)
    }

    /// The commit of a branch or tag at the time of the last fetch.
    pub(crate) fn reference(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Stores the commit of a branch or tag. Does nothing if the cache cannot be written to.
    pub(crate) fn refer(&self, revision: &str, commit: &str) {
        if self.reference(revision).as_deref() != Some(commit) {
            let _ = write(&self.folder().join("refs").join(revision), commit.as_bytes());
        }
    }

    /// The list of a commit's files, if this crate or `huggingface_hub` has fetched it before.
    pub(crate) fn listing(&self, commit: &str) -> Option<Vec<Entry>> {
        let read = |path: PathBuf| stored(&fs::read_to_string(path).ok()?);
        read(self.listing_file(commit))
            .or_else(|| read(self.folder().join("trees").join(format!("{commit}.json"))))
    }

    /// Stores the list of a commit's files. Does nothing if the cache cannot be written to.
    pub(crate) fn keep_listing(&self, commit: &str, entries: &[Entry]) {
        let _ = write(&self.listing_file(commit), store(entries).as_bytes());
    }

    /// The path is not `trees/COMMIT.json`: if that file exists, `huggingface_hub` treats a snapshot without all files
    /// as broken.
    fn listing_file(&self, commit: &str) -> PathBuf {
        self.folder().join(".dmd").join(format!("{commit}.json"))
    }

    /// The files of a commit that are in the cache. This replaces the list if there is none.
    pub(crate) fn files(&self, commit: &str) -> Option<Vec<Entry>> {
        let root = self.snapshot(commit);
        let mut entries = Vec::new();
        let mut folders = vec![(root, String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for item in fs::read_dir(&folder).ok()?.flatten() {
                let Ok(name) = item.file_name().into_string() else { continue };
                let path = format!("{prefix}{name}");
                // `fs::metadata` follows symbolic links, which most files are.
                let Ok(data) = fs::metadata(item.path()) else { continue };
                if data.is_dir() {
                    folders.push((item.path(), format!("{path}/")));
                } else if is_safe_path(&path).is_ok() {
                    entries.push(Entry::new(path, data.len()));
                }
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Some(entries).filter(|entries| !entries.is_empty())
    }

    /// Creates the folders that a file needs, and removes incomplete content under the file's hash.
    pub(crate) fn prepare(&self, hex: &str) -> Result<(), Error> {
        for folder in [self.folder().join("blobs"), self.locks()] {
            fs::create_dir_all(&folder).map_err(Error::cache(folder))?;
        }
        let blob = self.blob(hex);
        match fs::symlink_metadata(&blob) {
            // This content has the wrong length. The program that wrote it did not check it.
            Ok(_) => fs::remove_file(&blob).map_err(Error::cache(blob)),
            Err(_) => Ok(()),
        }
    }

    fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.name)
    }

    /// Takes the lock of a file's content, which `huggingface_hub` takes too. Waits for the lock, and calls `go_on`
    /// meanwhile. Files in the cache are correct even without the lock; it only avoids fetching a file twice.
    pub(crate) fn lock(
        &self,
        hex: &str,
        mut go_on: impl FnMut() -> Result<(), Error>,
    ) -> Result<FileLock, Error> {
        let folder = self.locks();
        fs::create_dir_all(&folder).map_err(Error::cache(&folder))?;
        let path = folder.join(format!("{hex}.lock"));
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open().map_err(Error::cache(&path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(FileLock { _file: file, real: true }),
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(100), &mut go_on)?,
                // File systems without locks return various errors.
                Err(TryLockError::Error(_)) => return Ok(FileLock { _file: file, real: false }),
            }
        }
    }

    /// The path of content that is not complete yet. If the lock is real, the name is always the same, so that a later
    /// call can resume.
    pub(crate) fn incomplete(&self, hex: &str, lock: &FileLock) -> PathBuf {
        let name =
            if lock.real { format!("{hex}.incomplete") } else { format!("{hex}.{}.incomplete", unique()) };
        self.folder().join("blobs").join(name)
    }

    /// Puts content at its path among a commit's files: as a relative symbolic link, or as the file itself if links are
    /// not possible. `fresh` means that no link refers to the content yet, so that it may be moved.
    pub(crate) fn place(&self, hex: &str, commit: &str, path: &str, fresh: bool) -> Result<(), Error> {
        let pointer = self.pointer(commit, path);
        let blob = self.blob(hex);
        let failed = || Error::cache(&pointer);
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder).map_err(Error::cache(folder))?;
        }
        let target: PathBuf = "../".repeat(path.split('/').count() + 1).into();
        if self.symlinks {
            let link = beside(&pointer);
            if symlink(&target.join("blobs").join(hex), &link).is_ok() {
                return fs::rename(&link, &pointer).map_err(failed());
            }
        }
        if fresh {
            return fs::rename(&blob, &pointer).map_err(failed());
        }
        let copy = beside(&pointer);
        let copied = fs::copy(&blob, &copy).and_then(|_| fs::rename(&copy, &pointer));
        if copied.is_err() {
            let _ = fs::remove_file(&copy);
        }
        copied.map_err(failed())
    }
}

/// Whether a path is a file of this length, or a link to one.
fn is_file_of(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == size)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sixteen random hexadecimal digits, so that no other process has the same, on another machine with this cache neither.
fn unique() -> String {
    // The keys of a `RandomState` are random in each process, and different in each call.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// A new name in the same folder as a path.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", unique()));
    path.with_file_name(name)
}

/// Writes a small file to a temporary name and renames it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = beside(path);
    let written = File::create_new(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
