//! The parts that encoder and decoder share: the middle block, which has the lowest resolution, and the residual block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::attention::PositionAttention;
use crate::config::AutoencoderConfig;
use crate::resnet::{Resample, ResnetBlock, ResnetConfig, TimeScaleShift};

/// Epsilon of every normalisation of the autoencoder; a constant in diffusers' `AutoencoderKL`.
pub(super) const EPSILON: f64 = 1e-6;

/// A residual block that keeps the resolution.
pub(super) fn resnet(
    config: &AutoencoderConfig,
    input: usize,
    output: usize,
    device: &Device,
) -> ResnetBlock {
    let groups = config.norm_num_groups;
    let (scale_shift, resample) = (TimeScaleShift::Added, Resample::Keep);
    ResnetConfig { input, output, embedding: None, groups, epsilon: EPSILON, scale_shift, resample }
        .init(device)
}

/// A residual block, attention over the positions, a residual block.
#[derive(Module, Debug)]
pub(super) struct MiddleBlock {
    attentions: Vec<PositionAttention>,
    resnets: Vec<ResnetBlock>,
}

impl MiddleBlock {
    pub(super) fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        Self {
            attentions: vec![PositionAttention::new(channels, 1, (config.norm_num_groups, EPSILON), device)],
            resnets: (0..2).map(|_| resnet(config, channels, channels, device)).collect(),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.resnets[0].forward(x, None);
        for (attention, resnet) in self.attentions.iter().zip(&self.resnets[1..]) {
            x = resnet.forward(attention.forward(x), None);
        }
        x
    }
}
