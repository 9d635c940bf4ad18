//! The first stage of a teacher: the autoencoder between pictures and latents.

use std::sync::Arc;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use dmd_core::{Noise, regression};
use dmd_data::Dataset;
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_unet::{Autoencoder, AutoencoderConfig};
use image::RgbImage;

use crate::config::AutoencoderSection;
use crate::fingerprint::Fingerprint;
use crate::run::Probe;
use crate::training::{Recipe, Training, TrainingConfig};
use crate::{Error, Figures, chunks};

/// The autoencoder and the linear map that predicts a picture's thumbnail from its latents.
#[derive(Module, Debug)]
pub struct Previewed {
    autoencoder: Autoencoder,
    preview: Conv2d,
}

/// Trains an [`Autoencoder`]: absolute plus squared error of the decoded sample (edges and colours),
/// a small pull of the latents towards the unit Gaussian, and the squared error of a thumbnail, one
/// pixel per latent, that a linear map makes of the latents. The last lays colours out in the latents as
/// they lie in RGB, as they are found to lie in Stable Diffusion's; left to itself a small encoder puts
/// them on one line, where a sampler's error turns each into its neighbour. The map is thrown away.
#[derive(Debug)]
pub struct AutoencoderRecipe {
    section: AutoencoderSection,
    dataset: Arc<dyn Dataset>,
    device: Device,
}

impl AutoencoderRecipe {
    /// Starts to train a fresh network; `device` is the plain device. `made_from` is what a checkpoint depends on.
    ///
    /// # Errors
    ///
    /// When the section's architecture is not valid.
    pub fn start(
        section: AutoencoderSection,
        dataset: Arc<dyn Dataset>,
        seed: u64,
        made_from: Fingerprint,
        device: &Device,
    ) -> Result<Training<Self>, Error> {
        device.seed(seed);
        let training = device.clone().autodiff();
        let model = Previewed {
            autoencoder: section.architecture(dataset.size()?).init(&training)?,
            preview: Conv2dConfig::new([section.latent_channels, 3], [1, 1]).init(&training),
        };
        let rate = section.schedule.rate(section.learning_rate, section.warmup_steps, section.pace.steps);
        let config = TrainingConfig { rate, ema_decay: section.ema_decay, seed, made_from };
        let recipe = Self { section, dataset, device: device.clone() };
        Ok(Training::new(recipe, model, config, "autoencoder", device))
    }

    fn draw(&self, count: usize, noise: &mut Noise) -> Result<Vec<RgbImage>, Error> {
        (0..count).map(|_| Ok(self.dataset.draw(noise)?.image)).collect()
    }

    /// Pictures at once in a measurement.
    fn chunk(&self) -> Result<usize, Error> {
        let side = self.dataset.size()? as usize;
        Ok(chunks::of_pictures(side, side))
    }
}

impl Training<AutoencoderRecipe> {
    /// The averaged network as it is trained; its latents are not standardised.
    pub fn trained(&self) -> Autoencoder {
        self.average().autoencoder
    }

    /// The averaged network with latents that have mean 0 and variance 1 in every channel over `count`
    /// pictures, and its configuration, with a scaling factor of 1.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    pub fn finish(&self, count: usize) -> Result<(Autoencoder, AutoencoderConfig), Error> {
        let (mut noise, recipe) = (self.noise_here(), self.recipe());
        let model = self.trained().clone();
        let channels = recipe.section.latent_channels;
        let (mut sums, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        let mut n = 0.0;
        for range in chunks::ranges(count, recipe.chunk()?.min(32)) {
            let images = recipe.draw(range.len(), &mut noise)?;
            let latents = model.encode(from_rgb8(&images, self.device())).mode();
            let channels = latents.swap_dims(0, 1).flatten::<2>(1, 3);
            let [_, values] = channels.dims();
            n += values as f64;
            for (i, value) in channels.into_data().iter::<f64>().enumerate() {
                sums[i / values] += value;
                squares[i / values] += value * value;
            }
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n) as f32).collect();
        let deviation = |(sum, squares): (&f64, &f64)| {
            let deviation = (squares / n - (sum / n).powi(2)).max(0.0).sqrt();
            // A channel that says nothing stays as it is.
            if deviation > 1e-6 { deviation as f32 } else { 1.0 }
        };
        let deviation: Vec<f32> = sums.iter().zip(&squares).map(deviation).collect();
        let config = recipe.section.architecture(recipe.dataset.size()?);
        Ok((model.standardised(&mean, &deviation), config))
    }
}

/// Absolute plus squared error of decoded pictures: the one for edges, the other for colours.
fn reconstruction(decoded: Tensor<4>, images: Tensor<4>) -> Tensor<1> {
    let error = decoded - images;
    error.clone().abs().mean() + error.square().mean()
}

/// Latents per value of the noise's octaves.
const OCTAVES: [usize; 3] = [1, 2, 4];

/// Noise on latents such as a generator's errors are: three octaves, one value per latent, per 2×2 and per
/// 4×4 latents, the coarser ones interpolated. White noise alone would be averaged away over an object;
/// what samplers get wrong is the same all over it. Each octave has its own standard deviation per picture,
/// uniform from 0 to `most`.
fn perturbation(shape: [usize; 4], most: f64, noise: &mut Noise, device: &Device) -> Tensor<4> {
    let [batch, channels, height, width] = shape;
    let mut sum = Tensor::zeros(shape, device);
    for octave in OCTAVES {
        let coarse = [batch, channels, height.div_ceil(octave), width.div_ceil(octave)];
        let values = noise.normal(coarse, device);
        let sigmas: Vec<f32> = noise.uniform(0.0..=most, batch).into_iter().map(|s| s as f32).collect();
        let sigmas = Tensor::<1>::from_floats(sigmas.as_slice(), device);
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([height, width]);
        let values = interpolate(values, options.with_align_corners(false));
        sum = sum + values * sigmas.reshape([batch, 1, 1, 1]);
    }
    sum
}

impl Recipe for AutoencoderRecipe {
    type Network = Previewed;

    fn name(&self) -> &'static str {
        "autoencoder"
    }

    fn batch(&self) -> Option<usize> {
        Some(self.section.batch)
    }

    fn loss(
        &mut self,
        network: &Previewed,
        rate: f64,
        noise: &mut Noise,
    ) -> Result<(Tensor<1>, Figures), Error> {
        let images = from_rgb8(&self.draw(self.section.batch, noise)?, &self.device);
        let posterior = network.autoencoder.encode(images.clone().autodiff());
        let shape = posterior.mean.dims();
        let mut latents = posterior.sample(noise.normal(shape, &self.device));
        if self.section.latent_noise > 0.0 {
            let plain = latents.clone().without_autodiff();
            let deviation = (plain.clone() - plain.mean().reshape([1, 1, 1, 1])).square().mean().sqrt();
            let noise = perturbation(shape, self.section.latent_noise * rate, noise, &self.device);
            latents = latents + noise * deviation.reshape([1, 1, 1, 1]);
        }
        let decoded = network.autoencoder.decode(latents.clone());
        let side = images.dims()[2] / shape[2]; // pixels per latent
        let thumbnail = avg_pool2d(images.clone(), AvgPoolOptions::new([side, side]));
        let preview = regression::loss(network.preview.forward(latents), thumbnail);
        let reconstruction = reconstruction(decoded, images);
        let kl = posterior.kl();
        let mut figures = Figures::new();
        figures.loss("reconstruction", reconstruction.clone());
        figures.loss("preview", preview.clone());
        figures.loss("kl", kl.clone());
        let loss = reconstruction + kl * self.section.kl_weight + preview * self.section.preview_weight;
        Ok((loss, figures))
    }

    /// Pictures above their reconstructions.
    fn probe(&self, network: &Previewed, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        let mut pictures = self.draw(8, &mut Noise::stream(0, "grid"))?;
        let mut decoded = Vec::new();
        for range in chunks::ranges(pictures.len(), self.chunk()?) {
            if stopped() {
                return Ok(None);
            }
            let latents = network.autoencoder.encode(from_rgb8(&pictures[range], &self.device)).mode();
            decoded.extend(to_rgb8(network.autoencoder.decode(latents)));
        }
        pictures.extend(decoded);
        Ok(Some(Probe { pictures, figures: Vec::new() }))
    }
}
