use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, convolution, doubled, linear_rows, normalised_convolution, silu};
use serde::{Deserialize, Serialize};

use crate::cost::{self, Cost};
use crate::resample::halved;

/// A 3×3 convolution that keeps height and width.
pub(crate) fn conv3x3(input: usize, output: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([input, output], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// A 1×1 convolution.
pub(crate) fn conv1x1(input: usize, output: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([input, output], [1, 1]).init(device)
}

/// A group normalisation with learned scale and shift.
pub(crate) fn group_norm(groups: usize, channels: usize, epsilon: f64, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, channels).with_epsilon(epsilon).init(device)
}

/// Applies a group normalisation and then `activation`, in one pass where the backend has a kernel for both.
pub(crate) fn apply_norm(norm: &GroupNorm, x: Tensor<4>, activation: Activation) -> Tensor<4> {
    let affine = "our group norms always have scale and shift";
    let gamma = norm.gamma.as_ref().expect(affine).val();
    let beta = norm.beta.as_ref().expect(affine).val();
    dmd_kernels::group_norm(x, gamma, beta, norm.num_groups, norm.epsilon, activation)
}

/// How a residual block changes height and width, both of its hidden path and of its shortcut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Resample {
    /// Keeps height and width.
    #[default]
    Keep,
    /// Halves height and width by averaging 2×2 positions.
    Halve,
    /// Doubles height and width by repeating every position.
    Double,
}

impl Resample {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Keep => x,
            Self::Halve => halved(x),
            Self::Double => doubled(x),
        }
    }
}

/// How a residual block uses the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TimeScaleShift {
    /// The embedding is added before the second normalisation.
    #[default]
    #[serde(rename = "default")]
    Added,
    /// The embedding scales and shifts the output of the second normalisation (ADM).
    #[serde(rename = "scale_shift")]
    ScaleShift,
}

/// Options of a residual block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetConfig {
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Width of the time embedding; `None` in the autoencoder, which has no time.
    pub(crate) embedding: Option<usize>,
    pub(crate) groups: usize,
    pub(crate) epsilon: f64,
    pub(crate) scale_shift: TimeScaleShift,
    pub(crate) resample: Resample,
}

/// diffusers' `ResnetBlock2D`: two convolutions, each after a normalisation, with a shortcut around both. The time
/// embedding enters between the convolutions.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    scale_shift: TimeScaleShift,
    #[module(skip)]
    resample: Resample,
}

impl ResnetConfig {
    pub(crate) fn init(&self, device: &Device) -> ResnetBlock {
        let Self { input, output, groups, epsilon, .. } = *self;
        ResnetBlock {
            norm1: group_norm(groups, input, epsilon, device),
            conv1: conv3x3(input, output, device),
            time_emb_proj: self.embedding.map(|width| {
                let rows = match self.scale_shift {
                    TimeScaleShift::Added => output,
                    TimeScaleShift::ScaleShift => 2 * output,
                };
                LinearConfig::new(width, rows).init(device)
            }),
            norm2: group_norm(groups, output, epsilon, device),
            conv2: conv3x3(output, output, device),
            conv_shortcut: (input != output).then(|| conv1x1(input, output, device)),
            scale_shift: self.scale_shift,
            resample: self.resample,
        }
    }
}

impl ResnetBlock {
    /// Number of input channels.
    pub(crate) fn input(&self) -> usize {
        cost::channels(&self.conv1)[0]
    }

    /// The cost of the block for an input of `[height, width]`, and the size of its output.
    pub(crate) fn cost(&self, [height, width]: [usize; 2]) -> (Cost, [usize; 2]) {
        let [input, output] = cost::channels(&self.conv1);
        let side = match self.resample {
            Resample::Keep => [height, width],
            Resample::Halve => [height / 2, width / 2],
            Resample::Double => [2 * height, 2 * width],
        };
        let positions = side[0] * side[1];
        let resampled = self.resample != Resample::Keep;
        // The first normalisation keeps the block's input, which is already counted as the output of another block. No
        // layer keeps the output of the first normalisation where that output is resampled.
        let mut kept = input * positions; // kept by the first convolution
        kept += if resampled && self.conv_shortcut.is_some() { input * positions } else { 0 };
        kept += match self.scale_shift {
            // Kept by the second normalisation and the second convolution.
            TimeScaleShift::Added => 2 * output * positions,
            // Kept by the second normalisation, the product, SiLU and the second convolution.
            TimeScaleShift::ScaleShift => 4 * output * positions,
        };
        kept += output * positions;
        let convolutions = [Some(&self.conv1), Some(&self.conv2), self.conv_shortcut.as_ref()];
        let mut operations: f64 =
            convolutions.into_iter().flatten().map(|layer| cost::convolution(layer, positions)).sum();
        operations += self.time_emb_proj.as_ref().map_or(0.0, |layer| cost::linear(layer, 1));
        (Cost::of(self, kept, output * positions, operations), side)
    }

    /// `x: [batch, input, height, width]`; `embedding: [batch, width]`, for a block that uses a time embedding.
    pub(crate) fn forward(&self, x: Tensor<4>, embedding: Option<&Tensor<2>>) -> Tensor<4> {
        let h = match self.resample {
            Resample::Keep => {
                normalised_convolution(&self.norm1, Activation::Silu, &self.conv1, x.clone(), None)
            }
            _ => {
                let h = apply_norm(&self.norm1, x.clone(), Activation::Silu);
                convolution(&self.conv1, self.resample.apply(h))
            }
        };
        let x = self.resample.apply(x);
        let skip = match &self.conv_shortcut {
            Some(conv) => convolution(conv, x),
            None => x,
        };
        let [batch, channels, ..] = h.dims();
        let projected = match (&self.time_emb_proj, embedding) {
            (Some(projection), Some(embedding)) => Some(linear_rows(projection, silu(embedding.clone()))),
            _ => None,
        };
        let second =
            |h, skip| normalised_convolution(&self.norm2, Activation::Silu, &self.conv2, h, Some(skip));
        match projected {
            Some(projected) if self.scale_shift == TimeScaleShift::ScaleShift => {
                let part =
                    |start| projected.clone().narrow(1, start, channels).reshape([batch, channels, 1, 1]);
                let normal = apply_norm(&self.norm2, h, Activation::Identity);
                skip + convolution(&self.conv2, silu(normal * (part(0) + 1.0) + part(channels)))
            }
            Some(shift) => second(h + shift.reshape([batch, channels, 1, 1]), skip),
            None => second(h, skip),
        }
    }
}
