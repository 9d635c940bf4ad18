//! The regression term's data: noise, and what the teacher's deterministic sampler makes of it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::Noise;
use dmd_data::Dataset;
use dmd_model::{Family, Model};

use crate::cache::Cache;
use crate::captions::Captions;
use crate::fingerprint::Fingerprint;
use crate::pair_file::PairFile;
use crate::run::{Observer, Outcome, StepReport};
use crate::{Error, chunks};

/// Pairs per file; each file has its own random stream, so that machines can share the work.
const FILE: usize = 128;

/// A machine's share of the work: every `count`-th file, from `index` (counted from 0) on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which one of `count`.
    pub index: usize,
    /// Machines in all.
    pub count: usize,
}

impl Share {
    /// All of it.
    pub const ALL: Self = Self { index: 0, count: 1 };

    pub(crate) fn has(self, file: usize) -> bool {
        file % self.count.max(1) == self.index
    }
}

impl FromStr for Share {
    type Err = String;

    /// `i/n`, the first being `1/n`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok();
        let parts = text.split_once('/').and_then(|(index, count)| Some((number(index)?, number(count)?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count => Ok(Self { index: index - 1, count }),
            _ => Err(format!("{text:?} is no share; write e.g. 2/4 for the second of four machines")),
        }
    }
}

/// How pairs are made.
#[derive(Debug)]
pub struct PairMaker<'a, F: Family> {
    /// What is distilled.
    pub model: &'a Model<F>,
    /// Guidance of the teacher, as in training.
    pub guidance_scale: f64,
    /// Where captions come from.
    pub dataset: &'a dyn Dataset,
    /// Features of captions that were computed before, if there are any; the pairs are the same without.
    pub cache: Option<&'a Cache>,
    /// Sampling steps.
    pub steps: usize,
    /// Seed of captions and noise.
    pub seed: u64,
    /// Samples at once, at least; more where little memory is needed for them.
    pub batch: usize,
    /// The plain device.
    pub device: &'a Device,
    /// What the pairs depend on. Pairs of other settings in the same folder are left alone, and not used.
    pub made_from: Fingerprint,
}

impl<F: Family> PairMaker<'_, F> {
    /// Makes those of the first `count` pairs that `folder` does not hold and that belong to a share. Every file has its
    /// own random numbers, so machines need not know of each other. The observer may stop it between two chunks of a
    /// file; the file is then made from its beginning the next time.
    ///
    /// # Errors
    ///
    /// What the data set, the text encoder or the file system returns.
    pub fn make(
        &self,
        folder: &Path,
        count: usize,
        share: Share,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let start = std::time::Instant::now();
        let files: Vec<usize> = (0..count.div_ceil(FILE)).filter(|file| share.has(*file)).collect();
        let wanted = |file: usize| FILE.min(count - file * FILE);
        let steps: usize = files.iter().map(|file| wanted(*file)).sum();
        let text = self.cache.and_then(|cache| cache.text.clone());
        let mut features = Captions::new(self.dataset, text, self.device);
        let mut done = 0;
        let mut stopped_after = |step: usize| {
            let seconds = start.elapsed().as_secs_f64();
            observer.on_step(&StepReport { stage: "pairs", step, steps, losses: &[], seconds });
            observer.stopped()
        };
        for file in files {
            let (path, count) = (file_path(folder, &self.made_from, file), wanted(file));
            let exists = path.is_file() && PairFile::open(&path)?.len() >= count;
            if !exists {
                let stops = &mut |made| stopped_after(done + made);
                if !self.file(file, count, &path, &mut features, stops)? {
                    return Ok(Outcome::Stopped);
                }
            }
            done += count;
            if exists && stopped_after(done) && done < steps {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    /// Makes one file. After each chunk `stops` is told how many pairs are made; `false` when it said so before the end.
    fn file(
        &self,
        file: usize,
        count: usize,
        path: &Path,
        features: &mut Captions,
        stops: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, Error> {
        let mut noise = Noise::stream(self.seed, &format!("pairs-{file}"));
        // As many captions as a whole file has, so that a short file is the beginning of the whole one.
        let mut captions =
            (0..FILE).map(|_| self.dataset.caption(&mut noise)).collect::<Result<Vec<_>, _>>()?;
        captions.truncate(count);
        let [channels, height, width] = self.model.shape();
        let z = noise.normal([count, channels, height, width], self.device);
        let teacher = self.model.guided(self.guidance_scale, FloatDType::F32)?;
        let mut samples = Vec::new();
        for range in chunks::ranges(count, chunks::of_samples(self.model.shape(), self.batch)) {
            let prompts: Vec<&str> = captions[range.clone()].iter().map(String::as_str).collect();
            let condition = features.conditions(self.model, &prompts)?;
            let z = z.clone().narrow(0, range.start, range.len());
            samples.push(self.model.noising.sample(&teacher, self.steps, z, &condition)?);
            if stops(range.end) && range.end < count {
                return Ok(false);
            }
        }
        PairFile::write(path, z, Tensor::cat(samples, 0), &captions, &self.made_from)?;
        Ok(true)
    }
}

fn file_path(folder: &Path, made_from: &Fingerprint, file: usize) -> PathBuf {
    folder.join(format!("{}-{file:05}.safetensors", made_from.short()))
}

/// The pairs of a folder. Captions are in memory; noise and samples are read when they are asked for.
#[derive(Debug)]
pub struct Pairs {
    files: Vec<PairFile>,
    count: usize,
}

impl Pairs {
    /// Opens the first `count` pairs of a folder that were made from given settings.
    ///
    /// # Errors
    ///
    /// When a file is missing, damaged, too short, or of samples of another shape.
    pub fn open(
        folder: &Path,
        count: usize,
        shape: [usize; 3],
        made_from: &Fingerprint,
    ) -> Result<Self, Error> {
        let files = (0..count.div_ceil(FILE))
            .map(|file| {
                let wanted = FILE.min(count - file * FILE);
                let file = PairFile::open(&file_path(folder, made_from, file))?;
                file.check(wanted, shape, made_from)?;
                Ok(file)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { files, count })
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The caption of a pair.
    pub(crate) fn caption(&self, place: usize) -> &str {
        self.files[place / FILE].caption(place % FILE)
    }

    /// Noise and samples of some pairs, each `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read any more.
    pub fn get(&self, places: &[usize], device: &Device) -> Result<(Tensor<4>, Tensor<4>), Error> {
        let mut rows = (Vec::new(), Vec::new());
        for place in places {
            let [z, x0] = self.files[place / FILE].row(place % FILE, device)?;
            rows.0.push(z);
            rows.1.push(x0);
        }
        Ok((Tensor::cat(rows.0, 0), Tensor::cat(rows.1, 0)))
    }
}
