//! The second stage of a teacher: text encoder and UNet together, epsilon prediction on latents.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use dmd_clip::{ClipTextModel, TextConfig, Tokenizer, Vocabulary};
use dmd_core::{Denoiser, Guided, Level, Noise, NoiseSchedule, Prediction, TimeDistribution, denoising};
use dmd_data::Dataset;
use dmd_scheduler::{DiscreteSchedule, SchedulerConfig, TimeSampler};
use dmd_unet::{Autoencoder, AutoencoderConfig, UNetConfig, UNetDenoiser};

use crate::config::{DiffusionSection, TeacherConfig};
use crate::fingerprint::Fingerprint;
use crate::pool::Pool;
use crate::run::Probe;
use crate::training::{Recipe, Training, TrainingConfig};
use crate::{Error, Figures, chunks};

/// What is trained together.
#[derive(Module, Debug)]
pub struct Teacher {
    /// The text transformer.
    pub text: ClipTextModel,
    /// The UNet, as a denoiser.
    pub denoiser: UNetDenoiser,
}

/// Architectures of a teacher, as they are written into its folder.
#[derive(Debug, Clone)]
pub struct TeacherArchitecture {
    /// `text_encoder/config.json`.
    pub text: TextConfig,
    /// `unet/config.json`.
    pub unet: UNetConfig,
}

impl TeacherArchitecture {
    /// Text encoder and UNet of a run, for the latents of its autoencoder.
    pub fn new(config: &TeacherConfig, vocabulary: &Vocabulary, autoencoder: &AutoencoderConfig) -> Self {
        let sample_size = autoencoder.sample_size / autoencoder.downsampling();
        Self {
            text: config.text.architecture(vocabulary),
            unet: config.unet.architecture(sample_size, autoencoder.latent_channels, config.text.width),
        }
    }
}

/// What a latent diffusion is trained on.
#[derive(Debug, Clone)]
pub struct LatentParts {
    /// Pictures to latents and back.
    pub autoencoder: Autoencoder,
    /// Where the pictures and captions come from.
    pub dataset: Arc<dyn Dataset>,
    /// Captions to tokens.
    pub tokenizer: Tokenizer,
    /// Latents and tokens of the training pictures.
    pub pool: Pool,
    /// What a checkpoint depends on.
    pub made_from: Fingerprint,
}

/// Trains a [`Teacher`].
#[derive(Debug)]
pub struct DiffusionRecipe {
    section: DiffusionSection,
    dataset: Arc<dyn Dataset>,
    pool: Pool,
    tokenizer: Tokenizer,
    autoencoder: Autoencoder,
    schedule: DiscreteSchedule,
    /// All timesteps, and the noisier half alone.
    times: TimeSampler,
    noisy_times: TimeSampler,
    device: Device,
}

/// Draws timesteps of a range as the configuration says.
fn times(
    schedule: &DiscreteSchedule,
    distribution: TimeDistribution,
    range: RangeInclusive<usize>,
) -> Result<TimeSampler, Error> {
    if distribution.is_uniform() {
        return Ok(TimeSampler::Timesteps(range));
    }
    let level = |t| {
        let (alpha, sigma) = schedule.alpha_sigma(t);
        Level { t: t as f64, alpha, sigma }
    };
    let levels: Vec<Level> = (0..schedule.count()).map(level).collect();
    distribution.among(&levels, range).ok_or_else(|| Error::Option {
        key: "diffusion.times",
        value: format!("{distribution:?}"),
        must: "a distribution that reaches both halves of the schedule",
    })
}

impl DiffusionRecipe {
    /// Starts to train a teacher with a fresh UNet and a given text encoder, on top of a trained autoencoder and a
    /// pool of its latents; `device` is the plain device.
    ///
    /// # Errors
    ///
    /// When the UNet's architecture is not valid.
    pub fn start(
        config: &TeacherConfig,
        architecture: &TeacherArchitecture,
        text: ClipTextModel,
        parts: LatentParts,
        device: &Device,
    ) -> Result<Training<Self>, Error> {
        device.seed(config.seed);
        let section = config.diffusion.clone();
        let unet = architecture.unet.init(&device.clone().autodiff())?;
        let model = Teacher { text, denoiser: UNetDenoiser::new(unet, Prediction::Epsilon) };
        let LatentParts { autoencoder, dataset, tokenizer, pool, made_from } = parts;
        let rate = section.schedule.rate(section.learning_rate, section.warmup_steps, section.pace.steps);
        let training = TrainingConfig { rate, ema_decay: section.ema_decay, seed: config.seed, made_from };
        let schedule = SchedulerConfig::stable_diffusion().schedule();
        let last = schedule.count() - 1;
        let recipe = Self {
            noisy_times: times(&schedule, section.times, last.div_ceil(2)..=last)?,
            times: times(&schedule, section.times, 0..=last)?,
            dataset,
            schedule,
            device: device.clone(),
            pool,
            tokenizer,
            autoencoder,
            section,
        };
        Ok(Training::new(recipe, model, training, "diffusion", device)
            .with_optimizer(config.optimizer.into()))
    }

    /// Among all timesteps, but for the share that is drawn from the noisier half.
    fn draw_times(&self, batch: usize, noise: &mut Noise) -> Tensor<1> {
        let noisy = (batch as f64 * self.section.noisy_half_share).round() as usize;
        let mut draw = |times: &TimeSampler, count| times.draw(count, noise, &self.device);
        match (noisy, batch - noisy) {
            (0, all) => draw(&self.times, all),
            (all, 0) => draw(&self.noisy_times, all),
            (noisy, rest) => Tensor::cat(vec![draw(&self.noisy_times, noisy), draw(&self.times, rest)], 0),
        }
    }

    fn ids(&self, captions: &[&str]) -> Result<Tensor<2, Int>, Error> {
        let mut ids = Vec::new();
        for caption in captions {
            ids.extend(self.tokenizer.encode(caption)?.into_iter().map(|id| id as i32));
        }
        let shape = [captions.len(), ids.len() / captions.len()];
        Ok(Tensor::from_data(TensorData::new(ids, shape), &self.device))
    }
}

impl Recipe for DiffusionRecipe {
    type Network = Teacher;

    fn name(&self) -> &'static str {
        "diffusion"
    }

    fn batch(&self) -> Option<usize> {
        Some(self.section.batch)
    }

    fn loss(
        &mut self,
        network: &Teacher,
        _rate: f64,
        noise: &mut Noise,
    ) -> Result<(Tensor<1>, Figures), Error> {
        let levels = self.section.levels_per_caption;
        let places: Vec<usize> = (0..self.section.batch).map(|_| noise.below(self.pool.len())).collect();
        let dropped = noise.uniform(0.0..=1.0, places.len());
        let captions: Vec<Option<usize>> = places
            .iter()
            .zip(dropped)
            .map(|(place, u)| (u >= self.section.caption_dropout).then_some(*place))
            .collect();
        let ids = self.pool.ids(&captions, &self.device);
        let x0 = self.pool.latents(&places, &self.device).repeat_dim(0, levels);
        let [batch, ..] = x0.dims();
        let t = self.draw_times(batch, noise);
        let eps = noise.normal(x0.dims(), &self.device);

        let text = network.text.forward(ids).repeat_dim(0, levels);
        let level = self.schedule.level(t);
        let x_t = level.add_noise(x0.clone(), eps);
        let x0_hat = network.denoiser.denoise(x_t, &level, &text);
        let loss = denoising::loss(x0_hat, x0, self.section.loss.loss_weight(&level));
        let mut figures = Figures::new();
        figures.loss("loss", loss.clone());
        Ok((loss, figures))
    }

    /// Guided samples of 24 prompts of the data set.
    fn probe(&self, network: &Teacher, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        let mut noise = Noise::stream(0, "probe");
        let captions = self.dataset.prompts(24, &mut noise)?;
        if captions.is_empty() {
            return Ok(Some(Probe::default()));
        }
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let text = network.text.forward(self.ids(&prompts)?);
        let shape = self.pool.latent_shape();
        let [channels, height, width] = shape;
        let z = noise.normal([captions.len(), channels, height, width], &self.device);
        let unconditional = network.text.forward(self.ids(&[""])?).without_autodiff();
        let guided = Guided::new(&network.denoiser, unconditional, 3.0);
        let config = SchedulerConfig::stable_diffusion();
        let go_on = |_: usize, _: &Tensor<4>| match stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let mut pictures = Vec::new();
        for range in chunks::ranges(captions.len(), chunks::of_samples(shape, self.section.batch)) {
            let z = z.clone().narrow(0, range.start, range.len());
            let text = text.clone().narrow(0, range.start, range.len());
            let Some(latents) = config.sample(&guided, 20, z, &text, go_on)? else {
                return Ok(None);
            };
            let Some(decoded) = chunks::decode(&|x0| self.autoencoder.decode(x0), latents, stopped) else {
                return Ok(None);
            };
            pictures.extend(decoded);
        }
        let accuracy = self.dataset.accuracy(&captions, &pictures);
        let figures = accuracy.map(|share| ("probe_accuracy", share)).into_iter().collect();
        Ok(Some(Probe { pictures, figures }))
    }
}
