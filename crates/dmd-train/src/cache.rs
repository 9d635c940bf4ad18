//! Latents of a data set's pictures and features of its captions, computed once and kept in files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use dmd_data::Dataset;
use dmd_model::{Conditioner, Family, Model, TextFeatures};
use dmd_weights::{Error as WeightsError, Precision};

use crate::fingerprint::Fingerprint;
use crate::pairs::Share;
use crate::row_file::RowFile;
use crate::run::{Observer, Outcome, StepReport};
use crate::{Error, captions, reals};

/// Pictures or captions per file.
const FILE: usize = 256;

/// What the files of a cache depend on.
#[derive(Debug, Clone)]
pub struct CacheFingerprints {
    /// Latents: the data set, the autoencoder, the shape and the precision.
    pub latents: Fingerprint,
    /// Features: the data set, text encoders and tokenizers.
    pub text: Fingerprint,
}

/// How a cache is made.
#[derive(Debug)]
pub struct CacheMaker<'a, F: Family> {
    /// Whose autoencoder and text encoders.
    pub model: &'a Model<F>,
    /// Where pictures and captions come from.
    pub dataset: &'a dyn Dataset,
    /// Whether latents are made; features of captions always are, where the model reads text.
    pub latents: bool,
    /// How latents are written.
    pub precision: Precision,
    /// The plain device.
    pub device: &'a Device,
    /// What the files depend on. Files of something else are refused.
    pub made_from: CacheFingerprints,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Latents,
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Latents => "latents",
            Self::Text => "text",
        }
    }

    fn path(self, folder: &Path, file: usize) -> PathBuf {
        folder.join(format!("{}-{file:05}.safetensors", self.name()))
    }

    fn open(
        self,
        folder: &Path,
        file: usize,
        count: usize,
        made_from: &Fingerprint,
    ) -> Result<RowFile, Error> {
        let path = self.path(folder, file);
        let names: &[&str] = match self {
            Self::Latents => &["x0"],
            Self::Text => &["words", "pooled"],
        };
        let opened = RowFile::open(&path, self.name(), names)?;
        opened.check(made_from)?;
        let (found, wanted) = (opened.captions().len(), rows(file, count).len());
        if found != wanted || opened.shape(names[0]).is_none() {
            let reason = format!("it has {found} rows, expected {wanted}: delete it and make it again");
            return Err(WeightsError::Safetensors { path, reason }.into());
        }
        Ok(opened)
    }

    /// Opens all files of `count` rows.
    fn open_all(self, folder: &Path, count: usize, made_from: &Fingerprint) -> Result<Vec<RowFile>, Error> {
        (0..count.div_ceil(FILE)).map(|file| self.open(folder, file, count, made_from)).collect()
    }
}

/// The rows of a file.
fn rows(file: usize, count: usize) -> Range<usize> {
    file * FILE..((file + 1) * FILE).min(count)
}

impl<F: Family> CacheMaker<'_, F> {
    /// Makes those files of a share that `folder` does not hold yet. A file is written whole, so that processes with
    /// different shares need not know of each other, and one that is stopped or killed loses no more than the file it was
    /// at. The observer may stop it between two files.
    ///
    /// # Errors
    ///
    /// [`dmd_data::Error::Unlisted`] for a data set without a list; [`Error::Changed`] naming what differs when a file of
    /// the folder was made from something else; otherwise what the data set, the networks or the file system returns.
    pub fn make(&self, folder: &Path, share: Share, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        let start = Instant::now();
        let list = captions::different(self.dataset);
        if list.is_empty() && self.dataset.count().is_none() {
            return Err(dmd_data::Error::Unlisted { dataset: self.dataset.name() }.into());
        }
        let pictures = if self.latents { reals::count(self.dataset)? } else { 0 };
        let texts = if self.model.conditioner.max_tokens().is_some() { list.len() } else { 0 };
        let of = |kind: Kind, count: usize| (0..count.div_ceil(FILE)).map(move |file| (kind, file, count));
        let files = of(Kind::Latents, pictures).chain(of(Kind::Text, texts)).enumerate();
        let files: Vec<_> = files.filter(|(place, _)| share.has(*place)).map(|(_, file)| file).collect();
        let steps = files.iter().map(|(_, file, count)| rows(*file, *count).len()).sum();
        let mut step = 0;
        for (kind, file, count) in files {
            let (path, range) = (kind.path(folder, file), rows(file, count));
            let made_from = match kind {
                Kind::Latents => &self.made_from.latents,
                Kind::Text => &self.made_from.text,
            };
            step += range.len();
            if path.is_file() {
                kind.open(folder, file, count, made_from)?;
            } else if kind == Kind::Latents {
                self.latents(&path, range)?;
            } else {
                self.text(&path, &list, range)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            observer.on_step(&StepReport { stage: "cache", step, steps, losses: &[], seconds });
            if observer.stopped() && step < steps {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    fn latents(&self, path: &Path, places: Range<usize>) -> Result<(), Error> {
        let (mut samples, mut captions) = (Vec::new(), Vec::new());
        for place in places {
            let (sample, caption) = reals::sample(self.model, self.dataset, place, self.device)?;
            samples.push(sample);
            captions.push(caption);
        }
        let about = (&captions[..], &self.made_from.latents);
        RowFile::write(path, Kind::Latents.name(), [("x0", Tensor::cat(samples, 0))], self.precision, about)
    }

    fn text(&self, path: &Path, list: &[String], places: Range<usize>) -> Result<(), Error> {
        let (mut words, mut pooled) = (Vec::new(), Vec::new());
        let mut place = places.start;
        while place < places.end {
            let range = captions::together(place, list.len());
            place = range.end;
            let features = captions::encode(self.model, &list[range])?;
            words.push(features.words);
            pooled.extend(features.pooled.map(|pooled| pooled.unsqueeze_dim::<3>(1)));
        }
        let mut tensors = vec![("words", Tensor::cat(words, 0))];
        if !pooled.is_empty() {
            tensors.push(("pooled", Tensor::cat(pooled, 0)));
        }
        let about = (&list[places], &self.made_from.text);
        RowFile::write(path, Kind::Text.name(), tensors, Precision::Single, about)
    }
}

/// A cache of a data set, opened for a training.
#[derive(Debug)]
pub struct Cache {
    pub(crate) latents: Option<LatentCache>,
    pub(crate) text: Option<Arc<TextCache>>,
}

impl Cache {
    /// Whether a folder has features of captions, all or some of them.
    pub fn has_text(folder: &Path) -> bool {
        Kind::Text.path(folder, 0).is_file()
    }

    /// Opens what [`CacheMaker::make`] made in all its shares: latents where `latents` says so, and features of captions
    /// where the model reads text. Headers alone are read.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged; [`Error::Changed`] naming what differs when it was made from something else.
    pub fn open<F: Family>(
        folder: &Path,
        model: &Model<F>,
        dataset: &dyn Dataset,
        latents: bool,
        made_from: &CacheFingerprints,
    ) -> Result<Self, Error> {
        let (mut cache, count) = (Self { latents: None, text: None }, captions::different(dataset).len());
        if latents {
            let files = Kind::Latents.open_all(folder, reals::count(dataset)?, &made_from.latents)?;
            if let Some(file) = files.iter().find(|file| file.shape("x0") != Some(&model.shape())) {
                let (path, found) = (file.path().to_owned(), file.shape("x0").unwrap_or_default());
                let reason = format!("latents of shape {found:?}, expected {:?}", model.shape());
                return Err(WeightsError::Safetensors { path, reason }.into());
            }
            cache.latents = Some(LatentCache(files));
        }
        if model.conditioner.max_tokens().is_some() && count > 0 {
            cache.text = Some(Arc::new(TextCache(Kind::Text.open_all(folder, count, &made_from.text)?)));
        }
        Ok(cache)
    }
}

/// Latents by the places of their pictures in the data set.
#[derive(Debug)]
pub(crate) struct LatentCache(Vec<RowFile>);

impl LatentCache {
    /// The latent of a picture, `[1, channels, height, width]`.
    pub(crate) fn row(&self, place: usize, device: &Device) -> Result<Tensor<4>, Error> {
        self.0[place / FILE].row("x0", place % FILE, device)
    }

    /// Its caption.
    pub(crate) fn caption(&self, place: usize) -> &str {
        &self.0[place / FILE].captions()[place % FILE]
    }
}

/// Features by the places of their captions among the different ones.
#[derive(Debug)]
pub(crate) struct TextCache(Vec<RowFile>);

impl TextCache {
    /// The features of one caption.
    pub(crate) fn row(&self, place: usize, device: &Device) -> Result<TextFeatures, Error> {
        let (file, row) = (&self.0[place / FILE], place % FILE);
        let pooled = file.shape("pooled").map(|_| file.row::<3>("pooled", row, device)).transpose()?;
        Ok(TextFeatures {
            words: file.row("words", row, device)?,
            pooled: pooled.map(|row| row.squeeze_dim::<2>(1)),
        })
    }
}
