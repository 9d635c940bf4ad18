use std::path::Path;

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, convolution};

use crate::attention::PositionAttention;
use crate::config::AutoencoderConfig;
use crate::resample::{Downsample, Upsample};
use crate::resnet::{
    Resample, ResnetBlock, ResnetConfig, TimeScaleShift, apply_norm, conv1x1, conv3x3, group_norm,
};
use crate::tiling::Tiles;
use crate::{AUTOENCODER_KEYS, Error};

/// Epsilon of every normalisation of the autoencoder, fixed in diffusers' `AutoencoderKL`.
const EPSILON: f64 = 1e-6;

fn resnet(config: &AutoencoderConfig, input: usize, output: usize, device: &Device) -> ResnetBlock {
    let groups = config.norm_num_groups;
    let (scale_shift, resample) = (TimeScaleShift::Added, Resample::Keep);
    ResnetConfig { input, output, embedding: None, groups, epsilon: EPSILON, scale_shift, resample }
        .init(device)
}

/// `DownEncoderBlock2D`.
#[derive(Module, Debug)]
struct EncoderBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Vec<Downsample>,
}

/// `UpDecoderBlock2D`.
#[derive(Module, Debug)]
struct DecoderBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Vec<Upsample>,
}

/// Residual block, attention over positions, residual block.
#[derive(Module, Debug)]
struct MiddleBlock {
    attentions: Vec<PositionAttention>,
    resnets: Vec<ResnetBlock>,
}

impl MiddleBlock {
    fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        Self {
            attentions: vec![PositionAttention::new(channels, 1, (config.norm_num_groups, EPSILON), device)],
            resnets: (0..2).map(|_| resnet(config, channels, channels, device)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.resnets[0].forward(x, None);
        for (attention, resnet) in self.attentions.iter().zip(&self.resnets[1..]) {
            x = resnet.forward(attention.forward(x), None);
        }
        x
    }
}

/// The half from pictures to moments of latents.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<EncoderBlock>,
    mid_block: MiddleBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(config: &AutoencoderConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let deepest = channels[last];
        let down_blocks = (0..=last).map(|i| {
            let input = channels[i.saturating_sub(1)];
            let of_layer = |layer| if layer == 0 { input } else { channels[i] };
            EncoderBlock {
                resnets: (0..config.layers_per_block)
                    .map(|layer| resnet(config, of_layer(layer), channels[i], device))
                    .collect(),
                downsamplers: (0..usize::from(i < last))
                    .map(|_| Downsample::below_right(channels[i], device))
                    .collect(),
            }
        });
        Self {
            conv_in: conv3x3(config.in_channels, channels[0], device),
            down_blocks: down_blocks.collect(),
            mid_block: MiddleBlock::new(config, deepest, device),
            conv_norm_out: group_norm(config.norm_num_groups, deepest, EPSILON, device),
            conv_out: conv3x3(deepest, 2 * config.latent_channels, device),
        }
    }

    fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        let mut x = convolution(&self.conv_in, image);
        for block in &self.down_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = block.downsamplers.iter().fold(x, |x, down| down.forward(x));
        }
        let x = self.mid_block.forward(x);
        convolution(&self.conv_out, apply_norm(&self.conv_norm_out, x, Activation::Silu))
    }
}

/// The half from latents to pictures.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MiddleBlock,
    up_blocks: Vec<DecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(config: &AutoencoderConfig, device: &Device) -> Self {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let up_blocks = (0..=last).map(|i| {
            let input = channels[i.saturating_sub(1)];
            let of_layer = |layer| if layer == 0 { input } else { channels[i] };
            DecoderBlock {
                resnets: (0..=config.layers_per_block)
                    .map(|layer| resnet(config, of_layer(layer), channels[i], device))
                    .collect(),
                upsamplers: (0..usize::from(i < last)).map(|_| Upsample::new(channels[i], device)).collect(),
            }
        });
        Self {
            conv_in: conv3x3(config.latent_channels, channels[0], device),
            mid_block: MiddleBlock::new(config, channels[0], device),
            up_blocks: up_blocks.collect(),
            conv_norm_out: group_norm(config.norm_num_groups, channels[last], EPSILON, device),
            conv_out: conv3x3(channels[last], config.out_channels, device),
        }
    }

    fn forward(&self, latent: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(convolution(&self.conv_in, latent));
        for block in &self.up_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = block.upsamplers.iter().fold(x, |x, up| up.forward(x));
        }
        convolution(&self.conv_out, apply_norm(&self.conv_norm_out, x, Activation::Silu))
    }
}

/// diffusers' `AutoencoderKL`: pictures in [−1, 1] to latents of about unit variance and back.
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
    /// The logarithm of the variance, clamped to [−30, 20].
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

    /// Kullback–Leibler divergence from the unit Gaussian, in nats, mean per element, `[1]`.
    pub fn kl(&self) -> Tensor<1> {
        let variance = self.log_variance.clone().exp();
        (self.mean.clone().square() + variance - 1.0 - self.log_variance.clone()).mean() * 0.5
    }
}

impl AutoencoderConfig {
    /// A network with fresh random parameters.
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

    /// The same pictures from standardised latents: `(latent − mean) / deviation` per channel, in unscaled
    /// units. The 1×1 convolutions on either side of the latents take it in, exactly.
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

        // Of the moments, means are moved and divided, logarithms of variances are lowered.
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

    /// The latents of pictures.
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

    /// The pictures of scaled latents, about [−1, 1] and not clamped.
    ///
    /// # Shapes
    ///
    /// `latent`: `[batch, latent_channels, height, width]`.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        let latent = latent * (1.0 / self.scaling_factor);
        self.decoder.forward(convolution(&self.post_quant_conv, latent))
    }

    /// [`Self::decode`] in overlapping tiles of at most `tile` × `tile` latents, blended where they
    /// overlap, so that the memory of a large picture is that of a tile. The picture differs a little
    /// from the whole one: attention and normalisation see a tile at a time.
    ///
    /// # Panics
    ///
    /// If `tile` is below 4: tiles overlap by a quarter.
    pub fn decode_tiled(&self, latent: Tensor<4>, tile: usize) -> Tensor<4> {
        assert!(tile >= 4, "a tile has at least 4 latents a side, not {tile}");
        let latent = latent * (1.0 / self.scaling_factor);
        let tiles = Tiles { input: tile, output: tile * self.downsampling() };
        tiles.apply(latent, |tile| self.decoder.forward(convolution(&self.post_quant_conv, tile)))
    }

    /// [`Self::encode`] in overlapping tiles, of `tile` × `tile` latents each.
    ///
    /// # Panics
    ///
    /// As [`Self::decode_tiled`].
    pub fn encode_tiled(&self, image: Tensor<4>, tile: usize) -> Posterior {
        assert!(tile >= 4, "a tile has at least 4 latents a side, not {tile}");
        let tiles = Tiles { input: tile * self.downsampling(), output: tile };
        self.posterior(tiles.apply(image, |tile| convolution(&self.quant_conv, self.encoder.forward(tile))))
    }

    fn downsampling(&self) -> usize {
        1 << (self.encoder.down_blocks.len() - 1)
    }
}
