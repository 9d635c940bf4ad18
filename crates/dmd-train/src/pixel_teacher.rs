//! The teacher of a class-conditional model on pixels: EDM's loss and noise levels.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use dmd_core::{Classes, Denoiser, FakeScore, Noise, NoiseSchedule, Prediction, denoising, one_hot};
use dmd_data::{Dataset, Example};
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_scheduler::{EdmConfig, heun};
use dmd_unet::{ClassDenoiser, ClassUNetConfig};
use image::RgbImage;

use crate::checkpoint::RunState;
use crate::config::PixelTeacherConfig;
use crate::domain::PixelDomain;
use crate::run::{Probe, Stage};
use crate::trainee::{Trainee, teacher_optimizer};
use crate::{Error, LearningRate};

/// Bytes of pictures that are kept in memory; the rest are read again whenever they are drawn.
const KEPT: usize = 4 << 30;

/// Every example of a data set, with its class.
#[derive(Debug)]
struct Pictures {
    dataset: Arc<dyn Dataset>,
    /// Class of each example.
    classes: Vec<usize>,
    /// The first pictures.
    kept: Vec<RgbImage>,
}

impl Pictures {
    /// Reads every example once; the names of the classes, sorted, are its captions.
    fn read(dataset: Arc<dyn Dataset>) -> Result<(Self, Vec<String>), Error> {
        let count = dataset.count().filter(|count| *count > 0);
        let count = count.ok_or_else(|| dmd_data::Error::Unlisted { dataset: dataset.name() })?;
        let (mut captions, mut kept, mut bytes) = (Vec::with_capacity(count), Vec::new(), 0);
        for place in 0..count {
            let Example { image, caption } = dataset.get(place)?;
            captions.push(caption);
            bytes += image.as_raw().len();
            if bytes <= KEPT {
                kept.push(image);
            }
        }
        let mut names = captions.clone();
        names.sort();
        names.dedup();
        let classes = captions.iter().map(|caption| names.binary_search(caption).unwrap_or(0)).collect();
        Ok((Self { dataset, classes, kept }, names))
    }

    fn get(&self, place: usize) -> Result<RgbImage, Error> {
        match self.kept.get(place) {
            Some(picture) => Ok(picture.clone()),
            None => Ok(self.dataset.get(place)?.image),
        }
    }
}

/// Trains an EDM model on a data set's pictures, their captions being the classes.
#[derive(Debug)]
pub struct PixelTeacherStage {
    config: PixelTeacherConfig,
    unet: ClassUNetConfig,
    edm: EdmConfig,
    names: Vec<String>,
    pictures: Pictures,
    trainee: Trainee<ClassDenoiser>,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

impl PixelTeacherStage {
    /// A fresh network for every picture of a data set.
    ///
    /// # Errors
    ///
    /// When the pictures or the architecture cannot be used; a data set without a list of examples has no classes.
    pub fn new(
        config: PixelTeacherConfig,
        dataset: Arc<dyn Dataset>,
        device: &Device,
    ) -> Result<Self, Error> {
        let size = dataset.size()?;
        let (pictures, mut names) = Pictures::read(dataset)?;
        // One class is none to tell apart.
        if names.len() == 1 {
            names.clear();
        }
        let edm = EdmConfig::default();
        let unet = config.unet.architecture(size as usize, names.len());
        device.seed(config.seed);
        let network = unet.init(&device.clone().autodiff())?;
        let denoiser = ClassDenoiser::new(network, Prediction::Karras { sigma_data: edm.sigma_data });
        let section = &config.training;
        Ok(Self {
            trainee: Trainee::new(denoiser, section.ema_decay, teacher_optimizer()),
            rate: LearningRate::cosine(section.learning_rate, section.warmup_steps, section.pace.steps),
            noise: Noise::stream(config.seed, "pixels"),
            device: device.clone(),
            unet,
            edm,
            names,
            pictures,
            config,
        })
    }

    /// The averaged teacher with what belongs to it.
    pub fn domain(&self) -> PixelDomain {
        let network = self.trainee.average().clone();
        PixelDomain::new(network, self.unet.clone(), self.edm.clone(), self.names.clone(), &self.device)
    }

    /// Class rows; withheld ones are zeros, for guidance.
    fn classes(&self, picked: &[usize], withheld: &[bool]) -> Classes {
        (!self.names.is_empty()).then(|| {
            let rows = one_hot(picked, self.names.len(), &self.device);
            let kept: Vec<f32> = withheld.iter().map(|withheld| if *withheld { 0.0 } else { 1.0 }).collect();
            rows * Tensor::<1>::from_floats(kept.as_slice(), &self.device).reshape([picked.len(), 1])
        })
    }
}

impl Stage for PixelTeacherStage {
    fn name(&self) -> &'static str {
        "pixels"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let section = &self.config.training;
        let batch = section.batch;
        let places: Vec<usize> = (0..batch).map(|_| self.noise.below(self.pictures.classes.len())).collect();
        let pictures = places.iter().map(|place| self.pictures.get(*place)).collect::<Result<Vec<_>, _>>()?;
        let x0 = from_rgb8(&pictures, &self.device);
        let picked: Vec<usize> = places.iter().map(|place| self.pictures.classes[*place]).collect();
        let share = section.class_dropout;
        let withheld: Vec<bool> = self.noise.uniform(0.0..=1.0, batch).iter().map(|u| *u < share).collect();
        let classes = self.classes(&picked, &withheld);
        // EDM, table 1: ln sigma of mean −1.2 and deviation 1.2.
        let sigma = (self.noise.normal::<1>([batch], &self.device) * 1.2 - 1.2).exp();
        let level = self.edm.schedule().level(sigma);
        let x_t = level.add_noise(x0.clone(), self.noise.normal(x0.dims(), &self.device));
        let model = &self.trainee.model;
        let x0_hat = model.denoise(x_t, &level, &classes);
        let loss = denoising::loss(x0_hat, x0, model.loss_weight(&level));
        let rate = self.rate.at(step);
        let norm = self.trainee.descend(&loss, rate, step);
        let loss = f64::from(loss.into_scalar::<f32>());
        Ok(vec![("denoising", loss), ("gradient_norm", norm), ("learning_rate", rate)])
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainee.save(folder, "")
    }

    fn load(&mut self, folder: &Path, state: &RunState) -> Result<(), Error> {
        self.trainee.load(folder, "", &self.device)?;
        state.seek(&mut self.noise, folder)
    }

    fn state(&self, step: usize, seconds: f64) -> RunState {
        RunState::new(step, seconds, &self.noise)
    }

    /// Thirty-two pictures by 18 steps of Heun, a class after the other.
    fn probe(&self) -> Result<Probe, Error> {
        const COUNT: usize = 32;
        let mut noise = Noise::stream(0, "probe");
        let picked: Vec<usize> = (0..COUNT).map(|i| i % self.names.len().max(1)).collect();
        let classes = self.classes(&picked, &[false; COUNT]);
        let (channels, side) = (self.unet.in_channels, self.unet.sample_size);
        let z = noise.normal([COUNT, channels, side, side], &self.device) * self.edm.sigma_max;
        let x0 = heun::sample(self.trainee.average(), &self.edm.schedule(), 18, z, &classes);
        Ok(Probe { pictures: to_rgb8(x0), figures: Vec::new() })
    }
}
