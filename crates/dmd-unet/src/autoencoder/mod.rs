//! The autoencoder, which converts pictures to latents and back.

mod decoder;
mod encoder;
mod middle;

use std::path::Path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use dmd_kernels::convolution;

pub use self::decoder::Decoder;
pub use self::encoder::Encoder;
use crate::config::AutoencoderConfig;
use crate::resnet::conv1x1;
use crate::tiling::Tiles;
use crate::{AUTOENCODER_KEYS, Error};

/// diffusers' `AutoencoderKL`. It converts pictures in [−1, 1] to latents of about unit variance and back.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    scaling_factor: f64,
}

/// A diagonal Gaussian over *unscaled* latents, each `[batch, latent_channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The mean, which is also the mode.
    pub mean: Tensor<4>,
    /// The natural logarithm of the variance, clamped to [−30, 20].
    pub log_variance: Tensor<4>,
    scaling_factor: f64,
}

impl Posterior {
    /// The most likely latent, scaled.
    pub fn mode(&self) -> Tensor<4> {
        self.mean.clone() * self.scaling_factor
    }

    /// The latent `mean + std · eps`, scaled; `eps` is unit noise shaped like the mean.
    pub fn sample(&self, eps: Tensor<4>) -> Tensor<4> {
        let std = (self.log_variance.clone() * 0.5).exp();
        (self.mean.clone() + std * eps) * self.scaling_factor
    }

    /// Kullback–Leibler divergence from the unit Gaussian, in nats, as the mean over all elements, `[1]`.
    pub fn kl(&self) -> Tensor<1> {
        let variance = self.log_variance.clone().exp();
        (self.mean.clone().square() + variance - 1.0 - self.log_variance.clone()).mean() * 0.5
    }
}

impl AutoencoderConfig {
    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// As [`AutoencoderConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<Autoencoder, Error> {
        self.validate()?;
        let latent = self.latent_channels;
        Ok(Autoencoder {
            encoder: Encoder::new(self, device),
            decoder: Decoder::new(self, device),
            quant_conv: conv1x1(2 * latent, 2 * latent, device),
            post_quant_conv: conv1x1(latent, latent, device),
            scaling_factor: self.scaling_factor,
        })
    }
}

impl Autoencoder {
    /// Reads `config.json` and the weights of a diffusers `vae` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, AutoencoderConfig), Error> {
        let config: AutoencoderConfig = dmd_weights::read_config(folder)?;
        let network = config.init(device)?;
        let path = dmd_weights::weight_file(folder, &["diffusion_pytorch_model"])?;
        let network = dmd_weights::load(network, &dmd_weights::read(&path)?, &AUTOENCODER_KEYS)?;
        Ok((network, config))
    }

    /// The same network with another scaling factor.
    pub fn with_scaling_factor(self, scaling_factor: f64) -> Self {
        Self { scaling_factor, ..self }
    }

    /// The autoencoder with standardised latents, `(latent − mean) / deviation` per channel, in unscaled units. It
    /// encodes to and decodes from such latents, and the pictures stay the same. The change is exact: it is a change of
    /// the 1×1 convolutions before and after the latents.
    ///
    /// # Panics
    ///
    /// If there is not one mean and one deviation per latent channel.
    pub fn standardised(mut self, mean: &[f32], deviation: &[f32]) -> Self {
        let [outputs, channels, ..] = self.post_quant_conv.weight.dims();
        assert!(
            mean.len() == channels && deviation.len() == channels,
            "{channels} means and deviations, not {} and {}",
            mean.len(),
            deviation.len()
        );
        let device = self.post_quant_conv.weight.device();
        let (mean, deviation) =
            (Tensor::<1>::from_floats(mean, &device), Tensor::<1>::from_floats(deviation, &device));

        // The moments are means and logarithms of variances. Means are shifted and divided; logarithms are lowered.
        let moved = Tensor::cat(vec![mean.clone(), mean.zeros_like()], 0);
        let divisor = Tensor::cat(vec![deviation.clone(), deviation.ones_like()], 0);
        let lowered = Tensor::cat(vec![mean.zeros_like(), deviation.clone().log() * 2.0], 0);
        self.quant_conv.weight =
            self.quant_conv.weight.map(|w| w / divisor.clone().reshape([2 * channels, 1, 1, 1]));
        self.quant_conv.bias = self.quant_conv.bias.map(|bias| bias.map(|b| (b - moved) / divisor - lowered));

        let weight = self.post_quant_conv.weight.val().reshape([outputs, channels]);
        let shift = weight.matmul(mean.reshape([channels, 1])).reshape([outputs]);
        self.post_quant_conv.weight =
            self.post_quant_conv.weight.map(|w| w * deviation.reshape([1, channels, 1, 1]));
        self.post_quant_conv.bias = self.post_quant_conv.bias.map(|bias| bias.map(|b| b + shift));
        self
    }

    /// Encodes pictures to a distribution of latents.
    ///
    /// # Shapes
    ///
    /// `image`: `[batch, 3, height, width]` in [−1, 1], height and width divisible by
    /// [`AutoencoderConfig::downsampling`].
    pub fn encode(&self, image: Tensor<4>) -> Posterior {
        self.posterior(convolution(&self.quant_conv, self.encoder.forward(image)))
    }

    fn posterior(&self, moments: Tensor<4>) -> Posterior {
        let [_, channels, ..] = moments.dims();
        let half = channels / 2;
        Posterior {
            mean: moments.clone().narrow(1, 0, half),
            log_variance: moments.narrow(1, half, half).clamp(-30.0, 20.0),
            scaling_factor: self.scaling_factor,
        }
    }

    /// Decodes scaled latents to pictures. Their values are about [−1, 1] and not clamped.
    ///
    /// # Shapes
    ///
    /// `latent`: `[batch, latent_channels, height, width]`.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        let latent = latent * (1.0 / self.scaling_factor);
        self.decoder.forward(convolution(&self.post_quant_conv, latent))
    }

    /// As [`Self::decode`], in overlapping tiles of at most `tile` × `tile` latents, which are blended where they
    /// overlap. A large picture then needs only the memory of one tile. The result differs a little from that of
    /// [`Self::decode`], because attention and normalisation see one tile at a time.
    ///
    /// # Panics
    ///
    /// If `tile` is below 4, because tiles overlap by a quarter.
    pub fn decode_tiled(&self, latent: Tensor<4>, tile: usize) -> Tensor<4> {
        assert!(tile >= 4, "a tile has at least 4 latents a side, not {tile}");
        let latent = latent * (1.0 / self.scaling_factor);
        let tiles = Tiles { input: tile, output: tile * self.encoder.downsampling() };
        tiles.apply(latent, |tile| self.decoder.forward(convolution(&self.post_quant_conv, tile)))
    }

    /// As [`Self::encode`], in overlapping tiles of at most `tile` × `tile` latents.
    ///
    /// # Panics
    ///
    /// As [`Self::decode_tiled`].
    pub fn encode_tiled(&self, image: Tensor<4>, tile: usize) -> Posterior {
        assert!(tile >= 4, "a tile has at least 4 latents a side, not {tile}");
        let tiles = Tiles { input: tile * self.encoder.downsampling(), output: tile };
        self.posterior(tiles.apply(image, |tile| convolution(&self.quant_conv, self.encoder.forward(tile))))
    }
}
