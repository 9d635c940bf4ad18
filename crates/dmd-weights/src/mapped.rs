//! Files that are mapped into memory, so that the system reads only the pages that are used, and files that the program
//! already holds in memory.

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
    /// Bytes that the program already holds in memory, or no bytes for an empty file, which cannot be mapped.
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
    /// Opens a whole file and reads none of it yet. The pages of a mapped file are shared with every other process that
    /// reads it.
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
        // SAFETY: the mapping is read-only and lives as long as the regions that own it. The file's content must not
        // change while it is mapped. This project replaces files by renaming, which does not change an open file. If a
        // user truncates a model file in place while a program uses it, the program crashes, as any program does that
        // maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let range = 0..map.len();
        Ok(Self { memory: Memory::Mapped(Arc::new(map)), range })
    }

    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// A part of this region; `part` counts from the start of the region. The result is empty where `part` is not
    /// inside the region.
    pub(crate) fn part(&self, part: Range<usize>) -> Self {
        let inside = part.start <= part.end && part.end <= self.len();
        let range = if inside { self.range.start + part.start..self.range.start + part.end } else { 0..0 };
        Self { memory: self.memory.clone(), range }
    }

    /// The bytes of the region. All pages are read at once, which takes a fraction of the time that a page fault for
    /// every page takes.
    pub(crate) fn read(&self) -> bytes::Bytes {
        #[cfg(target_os = "linux")]
        if let Some(map) = self.memory.map() {
            use memmap2::Advice::{PopulateRead, WillNeed};
            let (start, len) = (self.range.start, self.range.len());
            // Kernels before 5.14 do not support `PopulateRead`. They read a page when it is first used, as without
            // this advice.
            let populated = map.advise_range(PopulateRead, start, len);
            let _ = populated.or_else(|_old_kernel| map.advise_range(WillNeed, start, len));
        }
        bytes::Bytes::from_owner(self.clone())
    }

    /// Gives the memory of the region's pages back to the system. The system reads a page again when it is next used,
    /// from its file cache if the page is still there.
    #[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "advice on a mapped file, see below"))]
    pub(crate) fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Some(map) = self.memory.map() {
            // SAFETY: the mapping is read-only and backed by a file, so a dropped page is read again with the same
            // bytes. If the call fails, the pages stay in memory.
            let advice = memmap2::UncheckedAdvice::DontNeed;
            let _ = unsafe { map.unchecked_advise_range(advice, self.range.start, self.range.len()) };
        }
    }
}
