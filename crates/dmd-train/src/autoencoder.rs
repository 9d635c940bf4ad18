//! The first stage of a teacher: the autoencoder between pictures and latents.

use std::path::Path;

use burn::tensor::Device;
use dmd_core::Noise;
use dmd_unet::{Autoencoder, AutoencoderConfig};
use image::RgbImage;

use crate::checkpoint::RunState;
use crate::config::AutoencoderSection;
use crate::data::{Source, to_tensor};
use crate::run::{Probe, Stage};
use crate::trainee::{Trainee, teacher_optimizer};
use crate::{Error, LearningRate, picture};

/// Trains an [`Autoencoder`]: absolute plus squared error of the decoded sample (edges and colours),
/// and a small pull of the latents towards the unit Gaussian.
#[derive(Debug)]
pub struct AutoencoderStage {
    section: AutoencoderSection,
    source: Source,
    trainee: Trainee<Autoencoder>,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

impl AutoencoderStage {
    /// A fresh network; `device` is the plain device, training runs on its autodiff side.
    ///
    /// # Errors
    ///
    /// When the section's architecture is not valid.
    pub fn new(
        section: AutoencoderSection,
        source: Source,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        device.seed(seed);
        let model = section.architecture(source.size()).init(&device.clone().autodiff())?;
        Ok(Self {
            trainee: Trainee::new(model, section.ema_decay, teacher_optimizer()),
            rate: LearningRate::cosine(section.learning_rate, section.warmup_steps, section.pace.steps),
            noise: Noise::stream(seed, "autoencoder"),
            device: device.clone(),
            source,
            section,
        })
    }

    /// The averaged network with the scaling factor that gives its latents unit variance over
    /// `count` pictures, and its configuration.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    pub fn finish(&self, count: usize) -> Result<(Autoencoder, AutoencoderConfig), Error> {
        let mut noise = self.noise.clone();
        let model = self.trainee.average().clone().with_scaling_factor(1.0);
        let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
        for _ in 0..count.div_ceil(32) {
            let images = self.draw(32, &mut noise)?;
            let latent = model.encode(to_tensor(&images, &self.device)).mode();
            for value in latent.into_data().iter::<f64>() {
                sum += value;
                squares += value * value;
                n += 1.0;
            }
        }
        let deviation = (squares / n - (sum / n) * (sum / n)).sqrt();
        let mut config = self.section.architecture(self.source.size());
        config.scaling_factor = 1.0 / deviation;
        Ok((model.with_scaling_factor(config.scaling_factor), config))
    }

    fn draw(&self, count: usize, noise: &mut Noise) -> Result<Vec<RgbImage>, Error> {
        (0..count).map(|_| Ok(self.source.draw(noise)?.image)).collect()
    }
}

impl Stage for AutoencoderStage {
    fn name(&self) -> &'static str {
        "autoencoder"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let mut noise = self.noise.clone();
        let images = to_tensor(&self.draw(self.section.batch, &mut noise)?, &self.device);
        let posterior = self.trainee.model.encode(images.clone().autodiff());
        let eps = noise.normal(posterior.mean.dims(), &self.device);
        self.noise = noise;
        let decoded = self.trainee.model.decode(posterior.sample(eps));
        let error = decoded - images;
        let reconstruction = error.clone().abs().mean() + error.square().mean();
        let kl = posterior.kl();
        let loss = reconstruction.clone() + kl.clone() * self.section.kl_weight;
        let rate = self.rate.at(step);
        let norm = self.trainee.descend(&loss, rate, step);
        Ok(vec![
            ("reconstruction", f64::from(reconstruction.into_scalar::<f32>())),
            ("kl", f64::from(kl.into_scalar::<f32>())),
            ("gradient_norm", norm),
            ("learning_rate", rate),
        ])
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

    /// Pictures above their reconstructions.
    fn probe(&self) -> Result<Probe, Error> {
        let mut pictures = self.draw(8, &mut Noise::stream(0, "grid"))?;
        let model = self.trainee.average();
        let latents = model.encode(to_tensor(&pictures, &self.device)).mode();
        pictures.extend(picture::from_tensor(model.decode(latents)));
        Ok(Probe { pictures, figures: Vec::new() })
    }
}
