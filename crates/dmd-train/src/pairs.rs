//! The regression term's data: noise, and what the teacher's deterministic sampler makes of it.

use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::Noise;
use dmd_data::Dataset;
use dmd_weights::{Error as WeightsError, write_atomic};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Error;
use crate::domain::Domain;
use crate::run::{Observer, Outcome, StepReport};

/// Pairs per file; each file has its own random stream, so that a run can stop between two.
const SHARD: usize = 128;

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

    fn has(self, shard: usize) -> bool {
        shard % self.count.max(1) == self.index
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
pub struct PairMaker<'a, D: Domain> {
    /// What is distilled.
    pub domain: &'a D,
    /// Guidance of the teacher, as in training.
    pub guidance_scale: f64,
    /// Where captions come from.
    pub dataset: &'a dyn Dataset,
    /// Sampling steps.
    pub steps: usize,
    /// Seed of captions and noise.
    pub seed: u64,
    /// The plain device.
    pub device: &'a Device,
}

/// Noise, the teacher's samples and their captions, in memory.
#[derive(Debug, Clone)]
pub struct Pairs {
    z: Vec<f32>,
    x0: Vec<f32>,
    captions: Vec<String>,
    latent_shape: [usize; 3],
}

impl<D: Domain> PairMaker<'_, D> {
    /// Makes the files of `folder` that are not there yet and belong to a share, of `count` pairs in
    /// all. Every file has its own random numbers, so machines need not know of each other.
    ///
    /// # Errors
    ///
    /// What the data source, the text encoder or the file system returns.
    pub fn make(
        &self,
        folder: &Path,
        count: usize,
        share: Share,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let start = std::time::Instant::now();
        for shard in (0..count.div_ceil(SHARD)).filter(|shard| share.has(*shard)) {
            let path = folder.join(format!("{shard:05}.safetensors"));
            if !path.is_file() {
                self.shard(shard, &path)?;
            }
            observer.on_step(&StepReport {
                stage: "pairs",
                step: shard + 1,
                steps: count.div_ceil(SHARD),
                losses: &[],
                seconds: start.elapsed().as_secs_f64(),
            });
            if observer.stopped() {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    fn shard(&self, shard: usize, path: &Path) -> Result<(), Error> {
        let mut noise = Noise::stream(self.seed, &format!("pairs-{shard}"));
        let captions = (0..SHARD).map(|_| self.dataset.caption(&mut noise)).collect::<Result<Vec<_>, _>>()?;
        let [channels, height, width] = self.domain.shape();
        let shape = [SHARD, channels, height, width];
        let z = noise.normal(shape, self.device);
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let teacher = self.domain.guided(self.guidance_scale)?;
        let condition = self.domain.condition(&prompts)?;
        let x0 = self.domain.sample(&teacher, self.steps, z.clone(), &condition)?;
        let bytes = |tensor: Tensor<4>| -> Vec<u8> {
            tensor.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect()
        };
        let (z, x0) = (bytes(z), bytes(x0));
        let invalid = |reason: String| WeightsError::Safetensors { path: path.to_owned(), reason };
        let view =
            |bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(|e| invalid(e.to_string()));
        let captions = serde_json::to_string(&captions).map_err(|e| invalid(e.to_string()))?;
        let metadata = [("captions".to_owned(), captions)].into();
        let bytes = safetensors::serialize([("z", view(&z)?), ("x0", view(&x0)?)], Some(metadata));
        Ok(write_atomic(path, &bytes.map_err(|e| invalid(e.to_string()))?)?)
    }
}

impl Pairs {
    /// Reads the first `count` pairs of a folder.
    ///
    /// # Errors
    ///
    /// When a shard is missing or damaged.
    pub fn read(folder: &Path, count: usize, latent_shape: [usize; 3]) -> Result<Self, Error> {
        let mut pairs = Self { z: Vec::new(), x0: Vec::new(), captions: Vec::new(), latent_shape };
        for shard in 0..count.div_ceil(SHARD) {
            let path = folder.join(format!("{shard:05}.safetensors"));
            let damaged =
                |reason: &str| WeightsError::Safetensors { path: path.clone(), reason: reason.to_owned() };
            let bytes =
                std::fs::read(&path).map_err(|source| WeightsError::Read { path: path.clone(), source })?;
            let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
            let captions = header.metadata().as_ref().and_then(|m| m.get("captions"));
            let captions = captions.ok_or_else(|| damaged("no captions"))?;
            let captions: Vec<String> =
                serde_json::from_str(captions).map_err(|e| damaged(&e.to_string()))?;
            let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
            let [channels, height, width] = latent_shape;
            let read = |name: &str| {
                let view = file.tensor(name).map_err(|e| damaged(&e.to_string()))?;
                if view.shape() != [captions.len(), channels, height, width] || view.dtype() != Dtype::F32 {
                    return Err(damaged("latents of another shape"));
                }
                let (chunks, _) = view.data().as_chunks::<4>();
                Ok(chunks.iter().map(|c| f32::from_le_bytes(*c)).collect::<Vec<f32>>())
            };
            pairs.z.extend(read("z")?);
            pairs.x0.extend(read("x0")?);
            pairs.captions.extend(captions);
        }
        Ok(pairs)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }

    /// The caption of a pair.
    pub fn caption(&self, place: usize) -> &str {
        &self.captions[place]
    }

    /// Noise and samples of some pairs, each `[batch, channels, height, width]`.
    pub fn get(&self, places: &[usize], device: &Device) -> (Tensor<4>, Tensor<4>) {
        let [channels, height, width] = self.latent_shape;
        let size = channels * height * width;
        let gather = |all: &[f32]| {
            let values: Vec<f32> =
                places.iter().flat_map(|place| &all[place * size..(place + 1) * size]).copied().collect();
            Tensor::from_data(TensorData::new(values, [places.len(), channels, height, width]), device)
        };
        (gather(&self.z), gather(&self.x0))
    }
}
