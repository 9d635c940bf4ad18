use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::{Response, header};

use crate::cache::Cache;
use crate::listing::{Digest, Entry};
use crate::wire::{Client, Failure, Tries, broken, host, retries};
use crate::{Error, Repository};

/// Number of bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Fetches one file into the cache. `report` receives the number of bytes that are on the disk. If it returns an error,
/// the download stops.
pub(crate) fn download(
    client: &Client,
    cache: &Cache,
    repository: &Repository,
    commit: &str,
    entry: &Entry,
    mut report: impl FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(digest) = &entry.digest else {
        return Err(Error::FileNotFound {
            repository: repository.name().to_owned(),
            file: entry.path.clone(),
        });
    };
    let hex = digest.hex();
    report(0)?;
    let lock = cache.lock(hex, || report(0))?;
    if cache.has(commit, entry) {
        return report(entry.size);
    }
    if cache.has_blob(hex, entry.size) {
        cache.place(hex, commit, &entry.path, false)?;
        return report(entry.size);
    }
    cache.prepare(hex)?;
    let path = cache.incomplete(hex, &lock);
    let partial = Partial::open(path.clone(), entry, digest)?;
    let received = receive(client, repository, commit, entry, partial, &mut report);
    if received.is_err() && (!lock.real || fs::metadata(&path).is_ok_and(|data| data.len() == 0)) {
        // No later call could resume from this file, or it is empty.
        let _ = fs::remove_file(&path);
    }
    received?;
    let blob = cache.blob(hex);
    fs::rename(&path, &blob).map_err(Error::cache(&blob))?;
    cache.place(hex, commit, &entry.path, true)
}

/// Receives a file until it is complete and its hash is correct.
fn receive(
    client: &Client,
    repository: &Repository,
    commit: &str,
    entry: &Entry,
    mut partial: Partial<'_>,
    report: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let url = client.file(repository, commit, &entry.path);
    let mut tries = Tries::new(retries(false), client.pause);
    // Whether the beginning of the file is from an earlier request. If the hash is wrong, the download is then
    // restarted once.
    let mut pieced = partial.len > 0;
    let mut started_anew = false;
    let mut furthest = partial.len;
    loop {
        let before = partial.len;
        let result = if partial.len == entry.size && (before > 0 || entry.size == 0) {
            Ok(())
        } else {
            pieced |= before > 0;
            client
                .get(repository, Some(&entry.path), &url, (before > 0).then_some(before))
                .and_then(|response| append(response, &url, &mut partial, report))
        };
        match result {
            Ok(()) if partial.is_right() => return partial.finish(),
            Ok(()) if pieced && !started_anew => {
                (pieced, started_anew) = (false, true);
                partial.restart()?;
            }
            Ok(()) => {
                let reason = format!("its hash is not {}", partial.digest.hex());
                return Err(partial.reject(reason));
            }
            Err(failure) => {
                let len = partial.len;
                if len > furthest {
                    furthest = len;
                    tries.renew();
                }
                tries.wait(failure, || report(len))?;
            }
        }
    }
}

/// Appends the content of a response to what was received before.
fn append(
    mut response: Response<Body>,
    url: &str,
    partial: &mut Partial<'_>,
    report: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Failure> {
    let text =
        |name| response.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let size = partial.entry.size;
    match response.status().as_u16() {
        200 => {
            let length: Option<u64> = text(header::CONTENT_LENGTH).and_then(|text| text.trim().parse().ok());
            if let Some(length) = length.filter(|&length| length != size) {
                return Err(partial.reject(format!("it has {length} bytes, the hub lists {size}")).into());
            }
            // The response has the whole file, because the server does not support ranges or no range was requested.
            if partial.len > 0 {
                partial.restart()?;
            }
        }
        206 => {
            let range = text(header::CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes "));
            let (first, total) = range
                .and_then(|range| range.split_once('-'))
                .map(|(first, rest)| (first, rest.rsplit('/').next().unwrap_or_default()))
                .unwrap_or_default();
            let fits = first.parse() == Ok(partial.len) && (total == "*" || total.parse() == Ok(size));
            if !fits {
                partial.restart()?;
                let reason = "it sends another part of the file than it was asked for".to_owned();
                return Err(Failure::Passing(Error::Answer { host: host(url), reason }, None));
            }
        }
        status => {
            partial.restart()?;
            let error = Error::Status { host: host(url), status, message: None };
            return Err(Failure::Passing(error, None));
        }
    }
    let mut reader = response.body_mut().as_reader();
    let mut piece = vec![0; PIECE];
    report(partial.len)?;
    while partial.len < size {
        let count = match reader.read(&mut piece) {
            Ok(0) => {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended early");
                return Err(broken(url, ureq::Error::Io(error)));
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(url, ureq::Error::from(error))),
        };
        if count as u64 > size - partial.len {
            return Err(partial
                .reject(format!("it has more than the {size} bytes that the hub lists"))
                .into());
        }
        partial.push(&piece[..count])?;
        report(partial.len)?;
    }
    // If the response does not state its length, only another read shows that it ends here.
    match reader.read(&mut piece) {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => Err(partial.reject(format!("it has more than the {size} bytes that the hub lists")).into()),
    }
}

/// A file that is being received, with the hash of the bytes so far.
struct Partial<'a> {
    path: PathBuf,
    file: File,
    entry: &'a Entry,
    digest: &'a Digest,
    hash: Hash,
    len: u64,
}

enum Hash {
    Sha256(Box<Sha256>),
    Git(Box<Sha1>),
}

impl Hash {
    fn new(entry: &Entry, digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Self::Sha256(Box::default()),
            Digest::Git(_) => Self::Git(Box::new(Sha1::new_with_prefix(format!("blob {}\0", entry.size)))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    fn hex(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(&hash.clone().finalize()),
            Self::Git(hash) => hex(&hash.clone().finalize()),
        }
    }
}

impl<'a> Partial<'a> {
    /// Opens the file that an earlier call left, or creates a new one.
    fn open(path: PathBuf, entry: &'a Entry, digest: &'a Digest) -> Result<Self, Error> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::cache(&path))?;
        let mut partial = Self { path, file, entry, digest, hash: Hash::new(entry, digest), len: 0 };
        partial.hash_what_is_there().map_err(Error::cache(&partial.path))?;
        if partial.len > entry.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        if !self.file.metadata()?.is_file() {
            return Ok(());
        }
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok(()),
                count => self.hash.update(&piece[..count]),
            }
            self.len = self.file.stream_position()?;
        }
    }

    /// Discards what was received.
    fn restart(&mut self) -> Result<(), Error> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(Error::cache(&self.path))?;
        self.hash = Hash::new(self.entry, self.digest);
        self.len = 0;
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| self.failed(error))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn is_right(&self) -> bool {
        self.len == self.entry.size && self.hash.hex() == self.digest.hex()
    }

    /// Syncs the content to the disk. This must happen before the file is renamed.
    fn finish(self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| self.failed(error))
    }

    /// Deletes what was received, and returns the error with the reason.
    fn reject(&self, reason: String) -> Error {
        let _ = fs::remove_file(&self.path);
        Error::Corrupt { file: self.entry.path.clone(), reason }
    }

    fn failed(&self, error: io::Error) -> Error {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
            return Error::DiskFull {
                file: self.entry.path.clone(),
                missing: self.entry.size - self.len,
                folder,
            };
        }
        Error::cache(&self.path)(error)
    }
}
