use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use rayon::prelude::*;

use crate::dataset::Fnv;
use crate::error::{Problem, all_or_problems};
use crate::picture::{Background, header_of, opened, square};
use crate::tar_index::{self, Sample, Section};
use crate::{Dataset, Entry, Error, Example};

/// Most files that braces stand for.
const MOST: usize = 1 << 16;

/// Tar files of pictures (`.png`, `.jpg`, `.jpeg`, `.webp`), each with a caption of the same stem: a `.txt` file, or a
/// `.json` file with a string named `caption`, `text` or `prompt`. The form of WebDataset and of img2dataset.
///
/// The tar files' headers are read when they are opened; a picture is read from its place when it is asked for. Pictures
/// are shown as [`crate::ImageFolder`] shows them, in the order in which they lie.
#[derive(Debug, Clone)]
pub struct WebDataset {
    /// As it was given.
    path: PathBuf,
    tars: Vec<PathBuf>,
    size: u32,
    background: Background,
    /// Which tar file, which sample of it counted from 1, and the sample.
    samples: Vec<(usize, usize, Sample)>,
    with_alpha: usize,
    others: usize,
}

impl WebDataset {
    /// Opens one tar file; all of a folder, in the order of their names; those of a pattern with `*` and `?`; or those of
    /// a sequence such as `train-{000..009}.tar`. Pictures become `size` pixels high and wide.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when there is no such file, or one that is not a whole tar file; [`Error::Lines`] naming every
    /// sample of a tar file without a caption, or whose picture cannot be read.
    pub fn open(path: &Path, size: u32) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Data { path: path.to_owned(), reason: reason.to_owned() };
        if size == 0 {
            return Err(wrong("pictures of size 0 have no pixels"));
        }
        let tars = tars(path)?;
        let read = tars.par_iter().map(|tar| read_one(tar)).collect::<Result<Vec<_>, _>>()?;
        let (mut samples, mut with_alpha, mut others) = (Vec::new(), 0, 0);
        for (tar, (found, unused)) in read.into_iter().enumerate() {
            others += unused;
            for (number, (sample, alpha)) in (1..).zip(found) {
                with_alpha += usize::from(alpha);
                samples.push((tar, number, sample));
            }
        }
        if samples.is_empty() {
            return Err(wrong("it holds no picture whose name ends in .png, .jpg, .jpeg or .webp"));
        }
        let (path, background) = (path.to_owned(), Background::default());
        Ok(Self { path, tars, size, background, samples, with_alpha, others })
    }

    /// The colour behind transparent parts; white unless it is set.
    pub fn with_background(self, background: Background) -> Self {
        Self { background, ..self }
    }

    /// Number of pictures.
    #[expect(clippy::len_without_is_empty, reason = "an opened data set is never empty")]
    pub fn len(&self) -> usize {
        self.samples.len()
    }
}

/// The samples of a tar file, with whether their pixels have an opacity, and how many files are of no use.
fn read_one(path: &Path) -> Result<(Vec<(Sample, bool)>, usize), Error> {
    let wrong = |reason: String| Error::Data { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    let length = file.metadata().map_err(|e| wrong(e.to_string()))?.len();
    let index = tar_index::read(BufReader::new(file), length).map_err(wrong)?;
    let checked: Vec<Result<(Sample, bool), Problem>> = (index.samples.into_par_iter().enumerate())
        .map(|(place, sample)| {
            let sample = sample?;
            let section = Section::open(path, sample.start, sample.length).map_err(|e| e.to_string());
            let problem =
                |reason| Problem { line: place + 1, reason: format!("{:?}: {reason}", sample.name) };
            let header = section.and_then(header_of).map_err(problem)?;
            Ok((sample, header.alpha))
        })
        .collect();
    Ok((all_or_problems(path, checked)?, index.others))
}

/// The tar files that a path stands for.
fn tars(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let wrong = |reason: String| Error::Data { path: path.to_owned(), reason };
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found: Vec<PathBuf> = if path.is_dir() {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let paths = entries.map_err(|e| wrong(e.to_string()))?.into_iter().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "tar")).collect()
    } else {
        let text = path.to_str().ok_or_else(|| wrong("the name is not UTF-8".to_owned()))?;
        let mut found = Vec::new();
        for text in braces(text).map_err(wrong)? {
            if text.contains(['*', '?', '[']) {
                let paths = glob::glob(&text).map_err(|e| wrong(e.to_string()))?;
                found.extend(paths.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(e.to_string()))?);
            } else {
                // A file that is missing in the sequence is an error when it is opened.
                found.push(PathBuf::from(text));
            }
        }
        found
    };
    if found.is_empty() {
        return Err(wrong("there is no such tar file".to_owned()));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The names that `{000..009}` stands for, with as many digits as the first number has.
fn braces(text: &str) -> Result<Vec<String>, String> {
    let range = |inside: &str| -> Option<(usize, usize, usize)> {
        let (first, last) = inside.split_once("..")?;
        Some((first.parse().ok()?, last.parse().ok()?, first.len()))
    };
    let mut done = 0;
    while let Some(open) = text[done..].find('{').map(|place| done + place) {
        let Some(close) = text[open..].find('}').map(|place| open + place) else { break };
        if let Some((first, last, digits)) = range(&text[open + 1..close]) {
            let ends = braces(&text[close + 1..])?;
            let count = last.checked_sub(first).ok_or_else(|| format!("{{{first}..{last}}} is empty"))?;
            if count.saturating_add(1).saturating_mul(ends.len()) > MOST {
                return Err(format!("braces stand for more than {MOST} files"));
            }
            let names = (first..=last).flat_map(|number| {
                let start = format!("{}{number:0digits$}", &text[..open]);
                ends.iter().map(move |end| format!("{start}{end}"))
            });
            return Ok(names.collect());
        }
        done = close + 1;
    }
    Ok(vec![text.to_owned()])
}

impl Dataset for WebDataset {
    fn name(&self) -> String {
        format!("the tar files {:?}", self.path)
    }

    fn caption(&self, noise: &mut Noise) -> Result<String, Error> {
        Ok(self.samples[noise.below(self.samples.len())].2.caption.clone())
    }

    fn draw(&self, noise: &mut Noise) -> Result<Example, Error> {
        self.get(noise.below(self.samples.len()))
    }

    fn size(&self) -> Result<u32, Error> {
        Ok(self.size)
    }

    fn count(&self) -> Option<usize> {
        Some(self.samples.len())
    }

    fn get(&self, place: usize) -> Result<Example, Error> {
        let (tar, _, Sample { name, caption, start, length }) = &self.samples[place];
        let path = &self.tars[*tar];
        let section = Section::open(path, *start, *length).map_err(|e| e.to_string());
        let opened = section.and_then(|section| opened(section, self.background));
        let wrong = |reason| Error::Data { path: path.clone(), reason: format!("{name:?}: {reason}") };
        Ok(Example { image: square(&opened.map_err(wrong)?.image, self.size), caption: caption.clone() })
    }

    fn entries(&self) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        Box::new(self.samples.iter().map(|(tar, number, sample)| Entry {
            caption: &sample.caption,
            list: &self.tars[*tar],
            line: *number,
        }))
    }

    fn notes(&self) -> Vec<String> {
        let name = self.name();
        let mut notes: Vec<_> =
            self.background.note(&name, self.with_alpha, self.samples.len()).into_iter().collect();
        if self.others > 0 {
            notes.push(format!(
                "{} files in {name} are neither pictures nor captions; they are not read",
                self.others
            ));
        }
        notes
    }

    /// Of the pictures' names and lengths, and of captions: pictures are not read again.
    fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        hash.add(&self.size.to_le_bytes());
        hash.add(self.background.name().as_bytes());
        for (_, _, sample) in &self.samples {
            hash.add(sample.name.as_bytes());
            hash.add(&sample.length.to_le_bytes());
            hash.add(sample.caption.as_bytes());
        }
        hash.finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn braces_are_sequences() {
        assert_eq!(braces("a-{08..11}.tar").unwrap(), ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(braces("{0..1}/{x}{2..3}").unwrap(), ["0/{x}2", "0/{x}3", "1/{x}2", "1/{x}3"]);
        assert_eq!(braces("plain{.tar").unwrap(), ["plain{.tar"]);
        assert!(braces("{3..1}").unwrap_err().contains("empty"));
        assert!(braces("{0..999999}").unwrap_err().contains("more than"));
        assert!(braces("{0..9999}{0..9999}").unwrap_err().contains("more than"));
    }
}
