use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, convolution, normalised_convolution};

use super::middle::{EPSILON, MiddleBlock, resnet};
use crate::config::AutoencoderConfig;
use crate::resample::Upsample;
use crate::resnet::{ResnetBlock, conv3x3, group_norm};

/// diffusers' `UpDecoderBlock2D`.
#[derive(Module, Debug)]
struct DecoderBlock {
    resnets: Vec<ResnetBlock>,
    upsamplers: Vec<Upsample>,
}

/// The second half of the autoencoder: latents to pictures.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MiddleBlock,
    up_blocks: Vec<DecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(config: &AutoencoderConfig, device: &Device) -> Self {
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

    pub(super) fn forward(&self, latent: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(convolution(&self.conv_in, latent));
        for block in &self.up_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = block.upsamplers.iter().fold(x, |x, up| up.forward(x));
        }
        normalised_convolution(&self.conv_norm_out, Activation::Silu, &self.conv_out, x, None)
    }
}
