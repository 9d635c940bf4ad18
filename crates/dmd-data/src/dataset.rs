use std::fmt::Debug;
use std::iter;
use std::path::{Path, PathBuf};

use dmd_core::Noise;
use image::RgbImage;

use crate::Error;
use crate::error::Problem;

/// A picture with its caption.
#[derive(Debug, Clone)]
pub struct Example {
    /// The picture, square, of [`Dataset::size`].
    pub image: RgbImage,
    /// What it shows.
    pub caption: String,
}

/// A caption and where it is written, for messages that lead to it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The caption.
    pub caption: &'a str,
    /// The file that lists it.
    pub list: &'a Path,
    /// The line in that file, counted from 1.
    pub line: usize,
}

/// Captions, and the pictures they describe.
///
/// A data set of your own needs a name and captions; with pictures also [`Self::draw`] and [`Self::size`]. Everything
/// random comes from the `noise` that is handed in, so that a run can be repeated.
pub trait Dataset: Debug + Send + Sync {
    /// What messages call it, e.g. `the folder "data"`.
    fn name(&self) -> String;

    /// The caption of a random example of the training split.
    ///
    /// # Errors
    ///
    /// When a caption cannot be read.
    fn caption(&self, noise: &mut Noise) -> Result<String, Error>;

    /// A random example of the training split.
    ///
    /// # Errors
    ///
    /// [`Error::NoPictures`] unless the data set has pictures, or what reading one returns.
    fn draw(&self, _noise: &mut Noise) -> Result<Example, Error> {
        Err(Error::NoPictures { dataset: self.name() })
    }

    /// Height and width of every picture.
    ///
    /// # Errors
    ///
    /// [`Error::NoPictures`] unless the data set has pictures.
    fn size(&self) -> Result<u32, Error> {
        Err(Error::NoPictures { dataset: self.name() })
    }

    /// Number of examples that [`Self::get`] knows; `None` where examples are made as they are drawn.
    fn count(&self) -> Option<usize> {
        None
    }

    /// The example at a place below [`Self::count`].
    ///
    /// # Errors
    ///
    /// [`Error::Unlisted`] for a data set without a count, or what reading a picture returns.
    fn get(&self, _place: usize) -> Result<Example, Error> {
        Err(Error::Unlisted { dataset: self.name() })
    }

    /// Every caption that is written in a file, in order, one for each example; empty where captions are made.
    fn entries(&self) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
        Box::new(iter::empty())
    }

    /// The words of the captions, sorted, for a tokenizer's vocabulary. Letters outside ASCII are left to the
    /// tokenizer's byte tokens.
    fn vocabulary(&self) -> Vec<String> {
        let mut words: Vec<String> = self
            .entries()
            .flat_map(|entry| entry.caption.split(|c: char| !c.is_ascii_alphabetic()))
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        words.sort();
        words.dedup();
        words
    }

    /// Prompts to look at a model with: ones that it was not trained on where the data set keeps some apart, else
    /// captions of random examples.
    ///
    /// # Errors
    ///
    /// When a caption cannot be read.
    fn prompts(&self, count: usize, noise: &mut Noise) -> Result<Vec<String>, Error> {
        (0..count).map(|_| self.caption(noise)).collect()
    }

    /// Whether a picture shows what a caption says; `None` where the data set cannot judge.
    fn shows(&self, _caption: &str, _picture: &RgbImage) -> Option<bool> {
        None
    }

    /// The share of pictures that show what their captions say; `None` where the data set cannot judge one of them.
    fn accuracy(&self, captions: &[String], pictures: &[RgbImage]) -> Option<f64> {
        let judged = captions.iter().zip(pictures).map(|(caption, picture)| self.shows(caption, picture));
        let judged = judged.collect::<Option<Vec<bool>>>()?;
        let right = judged.iter().filter(|right| **right).count();
        (!judged.is_empty()).then(|| right as f64 / judged.len() as f64)
    }

    /// What a user should know of how the data are read, one sentence each; printed once when a run begins.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// A number that changes when the examples do, in hexadecimal: earlier work on other examples is not taken for
    /// work on these. Where the files lie does not count. The default is of the size and of the written captions, or
    /// of the name where captions are made.
    fn fingerprint(&self) -> String {
        let mut hash = Fnv::default();
        hash.add(&self.size().unwrap_or(0).to_le_bytes());
        let mut written = false;
        for entry in self.entries() {
            hash.add(entry.caption.as_bytes());
            written = true;
        }
        if !written {
            hash.add(self.name().as_bytes());
        }
        hash.finish()
    }
}

/// Asks of every written caption whether it can be used, before a run begins.
///
/// # Errors
///
/// [`Error::Lines`] with every caption that `check` returned a reason for.
pub fn check_captions(
    dataset: &dyn Dataset,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<(), Error> {
    let mut path = PathBuf::new();
    let mut problems = Vec::new();
    for Entry { caption, list, line } in dataset.entries() {
        if let Err(reason) = check(caption) {
            list.clone_into(&mut path);
            problems.push(Problem { line, reason });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Lines { path, problems }) }
}

/// The hash FNV-1a of 64 bits, which stays the same from one release to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds a field; its length keeps it apart from the next one.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&bytes.len().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> String {
        format!("{:016x}", self.0)
    }
}
