//! TAESD, the distilled autoencoder (madebyollin): diffusers' `AutoencoderTiny`. At 512×512 its decoder needs 0.14
//! TFLOP; the decoder of the full autoencoder needs 2.51 TFLOP.

use std::path::Path;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use dmd_kernels::{convolution, doubled};

use crate::resnet::conv3x3;
use crate::{Error, TINY_AUTOENCODER_KEYS, TinyAutoencoderConfig};

impl TinyAutoencoderConfig {
    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// As [`Self::validate`].
    pub fn init(&self, device: &Device) -> Result<TinyAutoencoder, Error> {
        self.validate()?;
        Ok(TinyAutoencoder {
            encoder: self.encoder(device),
            decoder: self.decoder(device),
            scaling_factor: self.scaling_factor,
        })
    }

    fn encoder(&self, device: &Device) -> Sequence {
        let mut layers = Vec::new();
        for (level, channels) in self.encoder_block_out_channels.iter().copied().enumerate() {
            layers.push(Layer::conv(match level {
                0 => conv3x3(self.in_channels, channels, device),
                _ => Conv2dConfig::new([channels, channels], [3, 3])
                    .with_stride([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .with_bias(false)
                    .init(device),
            }));
            layers.extend((0..self.num_encoder_blocks[level]).map(|_| Layer::block(channels, device)));
        }
        let deepest = self.encoder_block_out_channels[self.encoder_block_out_channels.len() - 1];
        layers.push(Layer::conv(conv3x3(deepest, self.latent_channels, device)));
        Sequence { layers }
    }

    fn decoder(&self, device: &Device) -> Sequence {
        let widths = &self.decoder_block_out_channels;
        let mut layers = vec![Layer::conv(conv3x3(self.latent_channels, widths[0], device)), Layer::empty()];
        for (level, channels) in widths.iter().copied().enumerate() {
            layers.extend((0..self.num_decoder_blocks[level]).map(|_| Layer::block(channels, device)));
            if level + 1 == widths.len() {
                layers.push(Layer::conv(conv3x3(channels, self.out_channels, device)));
            } else {
                layers.push(Layer::empty());
                let conv = Conv2dConfig::new([channels, channels], [3, 3])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .with_bias(false);
                layers.push(Layer::conv(conv.init(device)));
            }
        }
        Sequence { layers }
    }
}

/// diffusers' `AutoencoderTinyBlock`: three convolutions with a shortcut around them.
#[derive(Module, Debug)]
struct Block {
    first: Conv2d,
    second: Conv2d,
    third: Conv2d,
}

/// A layer of the checkpoint's sequence: a convolution, a residual block, or a layer without parameters.
#[derive(Module, Debug)]
struct Layer {
    plain: Option<Conv2d>,
    block: Option<Block>,
}

impl Layer {
    fn empty() -> Self {
        Self { plain: None, block: None }
    }

    fn conv(conv: Conv2d) -> Self {
        Self { plain: Some(conv), block: None }
    }

    fn block(channels: usize, device: &Device) -> Self {
        let conv = || conv3x3(channels, channels, device);
        Self { plain: None, block: Some(Block { first: conv(), second: conv(), third: conv() }) }
    }
}

#[derive(Module, Debug)]
struct Sequence {
    layers: Vec<Layer>,
}

impl Sequence {
    /// A layer without parameters is the activation after the first convolution, or else a doubling of height and
    /// width.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.layers.iter().enumerate().fold(x, |x, (place, layer)| match (&layer.plain, &layer.block) {
            (Some(conv), _) => convolution(conv, x),
            (None, Some(block)) => {
                let h = relu(convolution(&block.first, x.clone()));
                let h = relu(convolution(&block.second, h));
                relu(convolution(&block.third, h) + x)
            }
            (None, None) if place == 1 => relu(x),
            (None, None) => doubled(x),
        })
    }
}

/// diffusers' `AutoencoderTiny`. It converts pictures in [−1, 1] to latents and back; both directions are
/// deterministic.
#[derive(Module, Debug)]
pub struct TinyAutoencoder {
    encoder: Sequence,
    decoder: Sequence,
    scaling_factor: f64,
}

impl TinyAutoencoder {
    /// Reads `config.json` and the weights of an `AutoencoderTiny` folder, such as `madebyollin/taesd`.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, TinyAutoencoderConfig), Error> {
        let config: TinyAutoencoderConfig = dmd_weights::read_config(folder)?;
        let network = config.init(device)?;
        let path = dmd_weights::weight_file(folder, &["diffusion_pytorch_model"])?;
        let network = dmd_weights::load(network, &dmd_weights::read(&path)?, &TINY_AUTOENCODER_KEYS)?;
        Ok((network, config))
    }

    /// Encodes pictures, `[batch, 3, height, width]` in [−1, 1], to scaled latents.
    pub fn encode(&self, image: Tensor<4>) -> Tensor<4> {
        self.encoder.forward((image + 1.0) / 2.0) * self.scaling_factor
    }

    /// Decodes scaled latents, `[batch, latent_channels, height, width]`, to pictures of about [−1, 1].
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        // TAESD softly clamps latents to [−3, 3].
        let latent = (latent / (3.0 * self.scaling_factor)).tanh() * 3.0;
        self.decoder.forward(latent) * 2.0 - 1.0
    }
}
