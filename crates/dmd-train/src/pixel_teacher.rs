//! The teacher of a class-conditional model on pixels: EDM's loss and noise levels.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_core::{Classes, Denoiser, FakeScore, Noise, NoiseSchedule, Prediction, denoising, one_hot};
use dmd_scheduler::{EdmConfig, heun};
use dmd_unet::{ClassDenoiser, ClassUNetConfig};

use crate::checkpoint::RunState;
use crate::config::PixelTeacherConfig;
use crate::data::{Source, to_tensor};
use crate::domain::PixelDomain;
use crate::run::{Probe, Stage};
use crate::trainee::{Trainee, teacher_optimizer};
use crate::{Error, LearningRate, picture};

/// Most pictures of a folder that are kept in memory.
const POOL: usize = 60_000;

/// Trains an EDM model on a source's pictures, their captions being the classes.
#[derive(Debug)]
pub struct PixelTeacherStage {
    config: PixelTeacherConfig,
    unet: ClassUNetConfig,
    edm: EdmConfig,
    names: Vec<String>,
    pictures: Vec<(Tensor<4>, usize)>,
    trainee: Trainee<ClassDenoiser>,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

impl PixelTeacherStage {
    /// A fresh network for a folder's pictures.
    ///
    /// # Errors
    ///
    /// When the pictures or the architecture cannot be used; a source that is no folder has no classes.
    pub fn new(config: PixelTeacherConfig, source: &Source, device: &Device) -> Result<Self, Error> {
        let Source::Folder(folder) = source else {
            return Err(Error::Option {
                key: "data.kind",
                value: "shapes".to_owned(),
                must: "a folder: its captions are the classes",
            });
        };
        let mut names: Vec<String> = folder.captions().map(str::to_owned).collect();
        names.sort();
        names.dedup();
        let pictures = (0..folder.len().min(POOL))
            .map(|i| {
                let example = folder.get(i)?;
                let class = names.binary_search(&example.caption).unwrap_or(0);
                Ok((to_tensor(&[example.image], device), class))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        // One class is none to tell apart.
        if names.len() == 1 {
            names.clear();
        }
        let edm = EdmConfig::default();
        let unet = config.unet.architecture(source.size() as usize, names.len());
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
        let places: Vec<usize> = (0..batch).map(|_| self.noise.below(self.pictures.len())).collect();
        let x0 = Tensor::cat(places.iter().map(|place| self.pictures[*place].0.clone()).collect(), 0);
        let picked: Vec<usize> = places.iter().map(|place| self.pictures[*place].1).collect();
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
        Ok(Probe { pictures: picture::from_tensor(x0), figures: Vec::new() })
    }
}
