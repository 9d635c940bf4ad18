use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use dmd_kernels::Activation;

use crate::resnet::{apply_norm, conv1x1, group_norm};

/// Epsilon of the head's normalisations: PyTorch's default, which DMD2's head uses.
const EPSILON: f64 = 1e-5;

/// DMD2's critic: a small head on a UNet's bottleneck that distinguishes real latents from generated ones. For Stable
/// Diffusion's bottleneck of 1280×8×8 it has 52 437 761 parameters, as in the paper.
#[derive(Module, Debug)]
pub struct Discriminator {
    conv_1: Conv2d,
    norm_1: GroupNorm,
    conv_2: Conv2d,
    norm_2: GroupNorm,
    conv_out: Conv2d,
}

impl Discriminator {
    /// Makes a head for bottlenecks of `channels × side × side`, with random initial parameters.
    ///
    /// # Panics
    ///
    /// If `side` is odd or 0, or `groups` does not divide the channels.
    pub fn new(channels: usize, side: usize, groups: usize, device: &Device) -> Self {
        assert!(
            side > 0 && side.is_multiple_of(2),
            "a bottleneck of {side} positions a side cannot be halved"
        );
        let conv = |kernel: usize| Conv2dConfig::new([channels, channels], [kernel, kernel]);
        Self {
            conv_1: conv(4)
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            norm_1: group_norm(groups, channels, EPSILON, device),
            // The kernel covers all remaining positions, so that one position is left.
            conv_2: conv(side / 2).with_stride([side / 2, side / 2]).init(device),
            norm_2: group_norm(groups, channels, EPSILON, device),
            conv_out: conv1x1(channels, 1, device),
        }
    }

    /// Realism logits `[batch, 1]` of bottlenecks `[batch, channels, side, side]`.
    pub fn forward(&self, bottleneck: Tensor<4>) -> Tensor<2> {
        let [batch, ..] = bottleneck.dims();
        let h = apply_norm(&self.norm_1, self.conv_1.forward(bottleneck), Activation::Silu);
        let h = apply_norm(&self.norm_2, self.conv_2.forward(h), Activation::Silu);
        self.conv_out.forward(h).reshape([batch, 1])
    }
}
