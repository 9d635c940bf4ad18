use std::path::Path;

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, convolution};

use crate::block::{DownBlock, LevelConfig, MidBlock, UpBlock};
use crate::config::UNetConfig;
use crate::embedding::{TimestepEmbedding, sinusoidal};
use crate::resnet::{apply_norm, conv3x3, group_norm};
use crate::{Error, UNET_KEYS};

/// diffusers' `UNet2DConditionModel` as Stable Diffusion 1.x and 2.x use it.
#[derive(Module, Debug)]
pub struct UNet2d {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The network after its first half.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Output of the middle block, `[batch, channels, height / 2^k, width / 2^k]`.
    pub bottleneck: Tensor<4>,
    skips: Vec<Tensor<4>>,
    embedding: Tensor<2>,
    text: Tensor<3>,
}

impl UNetConfig {
    /// A network with fresh random parameters.
    ///
    /// # Errors
    ///
    /// As [`UNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<UNet2d, Error> {
        self.validate()?;
        let channels = &self.block_out_channels;
        let levels = channels.len();
        let level = |level, attends| LevelConfig { unet: self, level, attends };

        // Channels of every skip, in the order in which the encoder makes them.
        let mut skips = vec![channels[0]];
        let mut down_blocks = Vec::with_capacity(levels);
        for i in 0..levels {
            let input = channels[i.saturating_sub(1)];
            down_blocks.push(DownBlock::new(&level(i, self.attends_down(i)), input, device));
            skips.extend(vec![channels[i]; self.layers_per_block]);
            if i + 1 < levels {
                skips.push(channels[i]);
            }
        }
        let mut up_blocks = Vec::with_capacity(levels);
        for block in 0..levels {
            let i = levels - 1 - block;
            let input = channels[(i + 1).min(levels - 1)];
            let split = skips.len() - (self.layers_per_block + 1);
            let taken: Vec<usize> = skips.drain(split..).rev().collect();
            up_blocks.push(UpBlock::new(&level(i, self.attends_up(block)), input, &taken, device));
        }
        Ok(UNet2d {
            conv_in: conv3x3(self.in_channels, channels[0], device),
            time_embedding: TimestepEmbedding::new(channels[0], 4 * channels[0], device),
            down_blocks,
            mid_block: MidBlock::new(&level(levels - 1, true), device),
            up_blocks,
            conv_norm_out: group_norm(self.norm_num_groups, channels[0], self.norm_eps, device),
            conv_out: conv3x3(channels[0], self.out_channels, device),
        })
    }
}

impl UNet2d {
    /// Reads `config.json` and the weights of a diffusers `unet` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, UNetConfig), Error> {
        let config: UNetConfig = dmd_weights::read_config(folder)?;
        let path = dmd_weights::weight_file(folder, &["diffusion_pytorch_model"])?;
        Ok((Self::from_file(&path, &config, device)?, config))
    }

    /// Reads a bare state dict, such as a distilled generator's, for a known configuration.
    ///
    /// # Errors
    ///
    /// When the file is missing, broken or does not fit.
    pub fn from_file(path: &Path, config: &UNetConfig, device: &Device) -> Result<Self, Error> {
        let network = config.init(device)?;
        Ok(dmd_weights::load(network, &dmd_weights::read(path)?, &UNET_KEYS)?)
    }

    /// The network's output, `decode(encode(..))`.
    ///
    /// # Shapes
    ///
    /// `x`: `[batch, in_channels, height, width]`, height and width divisible by
    /// [`UNetConfig::downsampling`]; `t`: `[batch]`; `text`: `[batch, tokens, cross_attention_dim]`.
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>, text: Tensor<3>) -> Tensor<4> {
        self.decode(self.encode(x, t, text))
    }

    /// The first half: down to and including the middle block.
    ///
    /// # Shapes
    ///
    /// As [`Self::forward`].
    pub fn encode(&self, x: Tensor<4>, t: Tensor<1>, text: Tensor<3>) -> Encoded {
        let [width, ..] = self.conv_in.weight.dims();
        let embedding = self.time_embedding.forward(sinusoidal(t, width));
        let mut h = convolution(&self.conv_in, x);
        let mut skips = vec![h.clone()];
        for block in &self.down_blocks {
            h = block.forward(h, &embedding, &text, &mut skips);
        }
        let bottleneck = self.mid_block.forward(h, &embedding, &text);
        Encoded { bottleneck, skips, embedding, text }
    }

    /// The second half: from the bottleneck and the skips to the output, `[batch, out_channels, height, width]`.
    pub fn decode(&self, encoded: Encoded) -> Tensor<4> {
        let Encoded { bottleneck, mut skips, embedding, text } = encoded;
        let mut h = bottleneck;
        for block in &self.up_blocks {
            h = block.forward(h, &embedding, &text, &mut skips);
        }
        convolution(&self.conv_out, apply_norm(&self.conv_norm_out, h, Activation::Silu))
    }
}
