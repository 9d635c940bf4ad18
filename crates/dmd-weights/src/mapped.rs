//! Files mapped into memory, of which only what is used is read, and files that are in the program's memory anyway.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, embedded};

/// A part of a mapped file.
#[derive(Clone)]
pub(crate) struct Region {
    memory: Memory,
    range: Range<usize>,
}

#[derive(Clone)]
enum Memory {
    Mapped(Arc<Mmap>),
    /// What is in memory anyway, or nothing: an empty file cannot be mapped.
    Own(bytes::Bytes),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Own(bytes) => bytes,
        }
    }

    #[cfg(target_os = "linux")]
    fn map(&self) -> Option<&Mmap> {
        match self {
            Self::Mapped(map) => Some(map),
            Self::Own(_) => None,
        }
    }
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self.memory.bytes().get(self.range.clone()).unwrap_or_default()
    }
}

impl Region {
    /// A whole file: its pages are the system's own, shared with every other reader, and none is read yet.
    #[expect(unsafe_code, reason = "a mapped file, see below")]
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        if let Some(bytes) = embedded::bytes(path) {
            let range = 0..bytes.len();
            return Ok(Self { memory: Memory::Own(bytes), range });
        }
        let failed = |source| Error::Read { path: path.to_owned(), source };
        embedded::missing(path).map_err(failed)?;
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        if found.len() == 0 {
            return Ok(Self { memory: Memory::Own(bytes::Bytes::new()), range: 0..0 });
        }
        // SAFETY: the mapping is read-only and lives as long as the regions that own it. Its content must not
        // change: this project replaces files by renaming, which leaves an open one as it is; a user who
        // cuts a model file in place while a program runs on it ends that program, as with every reader
        // that maps.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let range = 0..map.len();
        Ok(Self { memory: Memory::Mapped(Arc::new(map)), range })
    }

    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// A part of this region, counted from its start; empty where that is not inside.
    pub(crate) fn part(&self, part: Range<usize>) -> Self {
        let inside = part.start <= part.end && part.end <= self.len();
        let range = if inside { self.range.start + part.start..self.range.start + part.end } else { 0..0 };
        Self { memory: self.memory.clone(), range }
    }

    /// The bytes, all of them in memory: brought in at once, which takes a fraction of the time that a fault for every
    /// page would.
    pub(crate) fn read(&self) -> bytes::Bytes {
        #[cfg(target_os = "linux")]
        if let Some(map) = self.memory.map() {
            use memmap2::Advice::{PopulateRead, WillNeed};
            let (start, len) = (self.range.start, self.range.len());
            // Kernels before 5.14 do not populate; pages then come when they are touched, as without any advice.
            let populated = map.advise_range(PopulateRead, start, len);
            let _ = populated.or_else(|_old_kernel| map.advise_range(WillNeed, start, len));
        }
        bytes::Bytes::from_owner(self.clone())
    }

    /// Gives the memory of its pages back to the system, which reads them again when they are used: from its own copy of
    /// the file, while it has one.
    #[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "advice on a mapped file, see below"))]
    pub(crate) fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Some(map) = self.memory.map() {
            // SAFETY: the mapping is read-only and of a file, so that a page which is dropped comes back with the bytes that
            // it had. Without success the pages stay, as without this call.
            let advice = memmap2::UncheckedAdvice::DontNeed;
            let _ = unsafe { map.unchecked_advise_range(advice, self.range.start, self.range.len()) };
        }
    }
}
