//! The second stage of a teacher: text encoder and UNet together, epsilon prediction on latents.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use dmd_clip::{ClipTextModel, TextConfig, Tokenizer};
use dmd_core::{Denoiser, Guided, Noise, NoiseSchedule, Prediction, denoising};
use dmd_data::Dataset;
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_scheduler::{DiscreteSchedule, SchedulerConfig, TimeSampler};
use dmd_unet::{Autoencoder, UNetConfig, UNetDenoiser};

use crate::checkpoint::RunState;
use crate::config::{DiffusionSection, TeacherConfig};
use crate::run::{Probe, Stage};
use crate::trainee::{Trainee, teacher_optimizer};
use crate::{Error, LearningRate};

/// What is trained together.
#[derive(Module, Debug)]
pub struct Teacher {
    /// The text transformer.
    pub text: ClipTextModel,
    /// The UNet, as a denoiser.
    pub denoiser: UNetDenoiser,
}

/// Latents and tokens of a set of captioned pictures, made once.
#[derive(Debug, Clone)]
pub struct Pool {
    latents: Vec<f32>,
    latent_shape: [usize; 3],
    ids: Vec<Vec<u32>>,
}

impl Pool {
    /// Draws `count` examples and encodes them.
    ///
    /// # Errors
    ///
    /// What the data source or the tokenizer returns.
    pub fn draw(
        count: usize,
        dataset: &dyn Dataset,
        autoencoder: &Autoencoder,
        tokenizer: &Tokenizer,
        noise: &mut Noise,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut pool = Self { latents: Vec::new(), latent_shape: [0; 3], ids: Vec::new() };
        while pool.ids.len() < count {
            let examples = (0..64.min(count - pool.ids.len()))
                .map(|_| dataset.draw(noise))
                .collect::<Result<Vec<_>, _>>()?;
            for example in &examples {
                pool.ids.push(tokenizer.encode(&example.caption)?);
            }
            let images: Vec<_> = examples.into_iter().map(|example| example.image).collect();
            let latents = autoencoder.encode(from_rgb8(&images, device)).mode();
            let [_, channels, height, width] = latents.dims();
            pool.latent_shape = [channels, height, width];
            pool.latents.extend(latents.into_data().iter::<f32>());
        }
        Ok(pool)
    }

    /// Shape of a latent, `[channels, height, width]`.
    pub fn latent_shape(&self) -> [usize; 3] {
        self.latent_shape
    }

    /// The latents at some places, `[batch, channels, height, width]`.
    pub fn latents(&self, places: &[usize], device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.latent_shape;
        let size = channels * height * width;
        let values: Vec<f32> = places
            .iter()
            .flat_map(|place| &self.latents[place * size..(place + 1) * size])
            .copied()
            .collect();
        Tensor::from_data(TensorData::new(values, [places.len(), channels, height, width]), device)
    }

    /// The tokens at some places, `[batch, tokens]`; `None` stands for the empty caption `empty`.
    pub fn ids(&self, places: &[Option<usize>], empty: &[u32], device: &Device) -> Tensor<2, Int> {
        let values: Vec<i32> = places
            .iter()
            .flat_map(|place| place.map_or(empty, |place| &self.ids[place]))
            .map(|id| *id as i32)
            .collect();
        Tensor::from_data(TensorData::new(values, [places.len(), empty.len()]), device)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Architectures of a teacher, as they are written into its folder.
#[derive(Debug, Clone)]
pub struct TeacherArchitecture {
    /// `text_encoder/config.json`.
    pub text: TextConfig,
    /// `unet/config.json`.
    pub unet: UNetConfig,
}

/// What a latent diffusion is trained on.
#[derive(Debug, Clone)]
pub struct LatentParts {
    /// Pictures to latents and back.
    pub autoencoder: Autoencoder,
    /// What the pool was drawn from.
    pub dataset: Arc<dyn Dataset>,
    /// Captions to tokens.
    pub tokenizer: Tokenizer,
    /// Latents and tokens of the training pictures.
    pub pool: Pool,
}

/// Trains a [`Teacher`].
#[derive(Debug)]
pub struct DiffusionStage {
    section: DiffusionSection,
    dataset: Arc<dyn Dataset>,
    pool: Pool,
    empty: Vec<u32>,
    tokenizer: Tokenizer,
    autoencoder: Autoencoder,
    schedule: DiscreteSchedule,
    trainee: Trainee<Teacher>,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

impl DiffusionStage {
    /// A teacher with a fresh UNet and a given text encoder, on top of a trained autoencoder and a
    /// pool of its latents; `device` is the plain device.
    ///
    /// # Errors
    ///
    /// When the UNet's architecture is not valid.
    pub fn new(
        config: &TeacherConfig,
        architecture: &TeacherArchitecture,
        text: ClipTextModel,
        parts: LatentParts,
        device: &Device,
    ) -> Result<Self, Error> {
        device.seed(config.seed);
        let section = config.diffusion.clone();
        let unet = architecture.unet.init(&device.clone().autodiff())?;
        let model = Teacher { text, denoiser: UNetDenoiser::new(unet, Prediction::Epsilon) };
        let LatentParts { autoencoder, dataset, tokenizer, pool } = parts;
        Ok(Self {
            empty: tokenizer.encode("")?,
            dataset,
            trainee: Trainee::new(model, section.ema_decay, teacher_optimizer()),
            rate: LearningRate::cosine(section.learning_rate, section.warmup_steps, section.pace.steps),
            noise: Noise::stream(config.seed, "diffusion"),
            schedule: SchedulerConfig::stable_diffusion().schedule(),
            device: device.clone(),
            pool,
            tokenizer,
            autoencoder,
            section,
        })
    }

    /// The averaged teacher.
    pub fn teacher(&self) -> &Teacher {
        self.trainee.average()
    }

    /// Uniform over all timesteps, but for the share that is drawn from the noisier half.
    fn times(&mut self, batch: usize) -> Tensor<1> {
        let last = self.schedule.count() - 1;
        let noisy = (batch as f64 * self.section.noisy_half_share).round() as usize;
        let mut draw =
            |first, count| TimeSampler::Timesteps(first..=last).draw(count, &mut self.noise, &self.device);
        match (noisy, batch - noisy) {
            (0, all) => draw(0, all),
            (all, 0) => draw(last.div_ceil(2), all),
            (noisy, rest) => Tensor::cat(vec![draw(last.div_ceil(2), noisy), draw(0, rest)], 0),
        }
    }

    fn features(&self, captions: &[&str]) -> Result<Tensor<3>, Error> {
        let mut ids = Vec::new();
        for caption in captions {
            ids.extend(self.tokenizer.encode(caption)?.into_iter().map(|id| id as i32));
        }
        let shape = [captions.len(), self.empty.len()];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device);
        Ok(self.trainee.average().text.forward(ids))
    }
}

impl Stage for DiffusionStage {
    fn name(&self) -> &'static str {
        "diffusion"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let levels = self.section.levels_per_caption;
        let places: Vec<usize> = (0..self.section.batch).map(|_| self.noise.below(self.pool.len())).collect();
        let dropped = self.noise.uniform(0.0..=1.0, places.len());
        let captions: Vec<Option<usize>> = places
            .iter()
            .zip(dropped)
            .map(|(place, u)| (u >= self.section.caption_dropout).then_some(*place))
            .collect();
        let ids = self.pool.ids(&captions, &self.empty, &self.device);
        let x0 = self.pool.latents(&places, &self.device).repeat_dim(0, levels);
        let [batch, ..] = x0.dims();
        let t = self.times(batch);
        let eps = self.noise.normal(x0.dims(), &self.device);

        let text = self.trainee.model.text.forward(ids).repeat_dim(0, levels);
        let level = self.schedule.level(t);
        let x_t = level.add_noise(x0.clone(), eps);
        let x0_hat = self.trainee.model.denoiser.denoise(x_t, &level, &text);
        let loss = denoising::loss(x0_hat, x0, self.section.loss.loss_weight(&level));
        let rate = self.rate.at(step);
        let norm = self.trainee.descend(&loss, rate, step);
        Ok(vec![
            ("loss", f64::from(loss.into_scalar::<f32>())),
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

    /// Guided samples of 24 prompts (see [`Dataset::prompts`]).
    fn probe(&self) -> Result<Probe, Error> {
        let mut noise = Noise::stream(0, "probe");
        let captions = self.dataset.prompts(24, &mut noise)?;
        let text = self.features(&captions.iter().map(String::as_str).collect::<Vec<_>>())?;
        let [channels, height, width] = self.pool.latent_shape();
        let z = noise.normal([captions.len(), channels, height, width], &self.device);
        let unconditional = self.features(&[""])?.without_autodiff();
        let guided = Guided::new(&self.trainee.average().denoiser, unconditional, 3.0);
        let config = SchedulerConfig::stable_diffusion();
        let latents = config.sample(&guided, 20, z, &text, |_, _| ControlFlow::Continue(()))?;
        let Some(latents) = latents else {
            return Ok(Probe::default());
        };
        let pictures = to_rgb8(self.autoencoder.decode(latents));
        let accuracy = self.dataset.accuracy(&captions, &pictures);
        let figures = accuracy.map(|share| ("probe_accuracy", share)).into_iter().collect();
        Ok(Probe { pictures, figures })
    }
}
