use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, convolution, normalised_convolution};

use super::middle::{EPSILON, MiddleBlock, resnet};
use crate::config::AutoencoderConfig;
use crate::resample::Downsample;
use crate::resnet::{ResnetBlock, conv3x3, group_norm};

/// diffusers' `DownEncoderBlock2D`.
#[derive(Module, Debug)]
struct EncoderBlock {
    resnets: Vec<ResnetBlock>,
    downsamplers: Vec<Downsample>,
}

/// The first half of the autoencoder: pictures to the mean and the logarithm of the variance of latents.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<EncoderBlock>,
    mid_block: MiddleBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn new(config: &AutoencoderConfig, device: &Device) -> Self {
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

    pub(super) fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        let mut x = convolution(&self.conv_in, image);
        for block in &self.down_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = block.downsamplers.iter().fold(x, |x, down| down.forward(x));
        }
        let x = self.mid_block.forward(x);
        normalised_convolution(&self.conv_norm_out, Activation::Silu, &self.conv_out, x, None)
    }

    /// Number of pixels per latent along one side.
    pub(super) fn downsampling(&self) -> usize {
        1 << (self.down_blocks.len() - 1)
    }
}
