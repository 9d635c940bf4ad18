//! Which samples a tar file holds, and where: its headers are read once, its pictures when they are asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tar::{Archive, EntryType};

use crate::error::Problem;
use crate::picture::Bytes;
use crate::prompts::caption_of;

/// Endings of pictures.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Longest caption, in bytes, with whatever else its file holds.
const LONGEST: u64 = 1 << 20;

/// Bytes of a block, of which a tar file consists.
const BLOCK: u64 = 512;

/// A picture with its caption, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The picture's name in the tar file, for messages and to compare.
    pub(crate) name: String,
    pub(crate) caption: String,
    /// The place of the picture's first byte.
    pub(crate) start: u64,
    /// The picture's bytes, all of which lie within the tar file.
    pub(crate) length: u64,
}

/// What was found under one stem.
#[derive(Default)]
struct Found {
    /// Name, first byte and number of bytes.
    picture: Option<(String, u64, u64)>,
    text: Option<Result<String, String>>,
    json: Option<Result<String, String>>,
    twice: Option<String>,
}

/// What a tar file holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Index {
    /// Its pictures with captions, in their order, or what is wrong with one.
    pub(crate) samples: Vec<Result<Sample, Problem>>,
    /// Files that are neither pictures nor captions.
    pub(crate) others: usize,
}

/// Reads the headers of a tar file of `length` bytes, and its captions.
///
/// Files of one stem, the name up to the first dot after the last slash, belong together (WebDataset). Files whose name
/// begins with a dot are hidden and left out.
///
/// # Errors
///
/// Why the file is no whole tar file.
pub(crate) fn read(tar: impl Read + Seek, length: u64) -> Result<Index, String> {
    let mut archive = Archive::new(tar);
    let mut order: Vec<Found> = Vec::new();
    let mut stems: HashMap<Vec<u8>, usize> = HashMap::new();
    let (mut others, mut end) = (0, 0);
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&name).into_owned();
        let (start, size) = (entry.raw_file_position(), entry.size());
        end = start.checked_add(size).filter(|end| *end <= length).ok_or_else(|| truncated(&shown))?;
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            continue;
        }
        let base = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let Some(dot) = name[base..].iter().position(|byte| *byte == b'.') else {
            others += 1;
            continue;
        };
        if dot == 0 {
            continue;
        }
        let ending = String::from_utf8_lossy(&name[base + dot + 1..]).to_ascii_lowercase();
        let is_picture = PICTURES.contains(&ending.as_str());
        if !is_picture && ending != "txt" && ending != "json" {
            others += 1;
            continue;
        }
        let place = match stems.entry(name[..base + dot].to_owned()) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                order.push(Found::default());
                *place.insert(order.len() - 1)
            }
        };
        let found = &mut order[place];
        let taken = if is_picture {
            found.picture.replace((shown.clone(), start, size)).is_some()
        } else {
            let caption = caption(&mut entry, size, ending == "json");
            let caption = caption.map_err(|reason| format!("{shown:?}: {reason}"));
            let slot = if ending == "json" { &mut found.json } else { &mut found.text };
            slot.replace(caption).is_some()
        };
        if taken {
            found.twice = Some(shown);
        }
    }
    ends(archive.into_inner(), end)?;
    let numbered = order.into_iter().zip(1..);
    let samples = numbered.filter_map(|(found, number)| sample(found, number).transpose()).collect();
    Ok(Index { samples, others })
}

/// The sample of a stem; `None` where there is no picture.
fn sample(found: Found, number: usize) -> Result<Option<Sample>, Problem> {
    let Some((name, start, length)) = found.picture else {
        return Ok(None);
    };
    let problem = |reason| Problem { line: number, reason };
    if let Some(name) = found.twice {
        return Err(problem(format!("{name:?} has a stem and an ending that an earlier file has")));
    }
    let none = || Err(format!("{name:?} has no caption: no .txt and no .json of the same stem"));
    let caption = found.text.or(found.json).unwrap_or_else(none).map_err(problem)?;
    Ok(Some(Sample { name, caption, start, length }))
}

fn caption(entry: &mut impl Read, size: u64, is_json: bool) -> Result<String, String> {
    if size > LONGEST {
        return Err(format!("{size} bytes are too many for a caption"));
    }
    let mut bytes = Vec::new();
    entry.take(LONGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    if is_json {
        return caption_of(&bytes).map(|caption| caption.trim().to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_utf8| "it is not UTF-8".to_owned())?;
    Ok(text.trim_start_matches('\u{feff}').trim().to_owned())
}

/// A whole tar file ends with blocks of zeros.
fn ends(mut tar: impl Read + Seek, end: u64) -> Result<(), String> {
    let mut block = [1; BLOCK as usize];
    let place = end.checked_next_multiple_of(BLOCK).ok_or("it is no tar file")?;
    let read = tar.seek(SeekFrom::Start(place)).and_then(|_| tar.read_exact(&mut block));
    match read {
        Ok(()) if block.iter().all(|byte| *byte == 0) => Ok(()),
        _ => Err("the file is cut: a tar file ends with blocks of zeros, this one does not".to_owned()),
    }
}

fn truncated(name: &str) -> String {
    format!("the file is cut: {name:?} goes beyond its end")
}

fn unreadable(error: impl std::error::Error) -> String {
    format!("it cannot be read as a tar file: {error}")
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Section {
    file: File,
    start: u64,
    length: u64,
    at: u64,
}

impl Section {
    /// Opens `length` bytes of a file from `start` on.
    pub(crate) fn open(path: &Path, start: u64, length: u64) -> io::Result<impl Bytes> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(Self { file, start, length, at: 0 }))
    }
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read(&mut into[..most])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a place outside the picture");
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        let at = at.ok_or_else(outside)?;
        let place = self.start.checked_add(at).ok_or_else(outside)?;
        self.file.seek(SeekFrom::Start(place))?;
        self.at = at;
        Ok(at)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn index(bytes: &[u8]) -> Result<Index, String> {
        read(Cursor::new(bytes), bytes.len() as u64)
    }

    const FILES: [(&str, &[u8]); 9] = [
        ("b.txt", b" two \n"),
        ("b.PNG", b"picture b"),
        ("sub/a.b.json", b"of another kind"),
        ("a.jpg", b"picture a"),
        ("a.json", br#"{"caption": "one", "width": 3}"#),
        ("c.txt", b"no picture"),
        ("._a.jpg", b"hidden"),
        ("notes", b"x"),
        ("a.cls", b"7"),
    ];

    #[test]
    fn stems_belong_together() {
        let bytes = tar(&FILES);
        let found = index(&bytes).unwrap();
        assert_eq!(found.others, 3);
        let samples: Vec<Sample> = found.samples.into_iter().map(Result::unwrap).collect();
        let captions: Vec<&str> = samples.iter().map(|sample| sample.caption.as_str()).collect();
        assert_eq!(captions, ["two", "one"]);
        for (sample, picture) in samples.iter().zip([b"picture b", b"picture a"]) {
            assert_eq!(bytes[sample.start as usize..][..sample.length as usize], picture[..]);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let reason = |files: &[(&str, &[u8])]| {
            let samples = index(&tar(files)).unwrap().samples;
            samples.into_iter().find_map(Result::err).unwrap().reason
        };
        assert!(reason(&[("a.png", b"x")]).contains("no caption"));
        assert!(reason(&[("a.png", b"x"), ("a.txt", b"y"), ("a.png", b"z")]).contains("earlier"));
        assert!(reason(&[("a.png", b"x"), ("a.txt", b"\xff")]).contains("UTF-8"));
        assert!(reason(&[("a.png", b"x"), ("a.json", b"{\"text\": 3}")]).contains("not a string"));
        let long = vec![b'x'; LONGEST as usize + 1];
        assert!(reason(&[("a.png", b"x"), ("a.txt", &long)]).contains("too many"));
    }

    /// Cut anywhere before its end, a tar file is refused; of what follows the first block of zeros nothing is needed.
    #[test]
    fn a_cut_file_is_refused() {
        let whole = tar(&FILES);
        let needed = whole.len() - BLOCK as usize;
        for length in (0..needed).step_by(64).chain([needed - 1]) {
            let error = index(&whole[..length]).unwrap_err();
            assert!(
                !error.contains('\n') && error.contains("it cannot be read") || error.contains("cut"),
                "{error}"
            );
        }
        assert_eq!(index(&whole[..needed]).unwrap(), index(&whole).unwrap());
    }

    proptest! {
        /// Whatever the bytes are: no panic, and no picture that lies outside the file.
        #[test]
        fn damaged_files_do_no_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
            mend in any::<bool>(),
        ) {
            let mut bytes = tar(&FILES);
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if mend {
                // A header whose sum is right is believed further.
                for block in bytes.chunks_exact_mut(BLOCK as usize).filter(|block| block[257..262] == *b"ustar") {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(found) = index(&bytes) {
                for sample in found.samples.into_iter().flatten() {
                    prop_assert!(sample.start + sample.length <= bytes.len() as u64);
                }
            }
        }
    }
}
