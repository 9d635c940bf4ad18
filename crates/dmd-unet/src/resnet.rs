use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, activation::silu};
use dmd_kernels::Activation;

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

/// A group normalisation and what follows it, in one pass where the backend has one.
pub(crate) fn apply_norm(norm: &GroupNorm, x: Tensor<4>, activation: Activation) -> Tensor<4> {
    let affine = "our group norms always have scale and shift";
    dmd_kernels::group_norm(
        x,
        norm.gamma.as_ref().expect(affine).val(),
        norm.beta.as_ref().expect(affine).val(),
        norm.num_groups,
        norm.epsilon,
        activation,
    )
}

/// Shape of a residual block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetConfig {
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Width of the time embedding; none in the autoencoder.
    pub(crate) embedding: Option<usize>,
    pub(crate) groups: usize,
    pub(crate) epsilon: f64,
}

/// diffusers' `ResnetBlock2D`: two normalised convolutions around a skip, the time added between.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetConfig {
    pub(crate) fn init(&self, device: &Device) -> ResnetBlock {
        let Self { input, output, groups, epsilon, .. } = *self;
        ResnetBlock {
            norm1: group_norm(groups, input, epsilon, device),
            conv1: conv3x3(input, output, device),
            time_emb_proj: self.embedding.map(|width| LinearConfig::new(width, output).init(device)),
            norm2: group_norm(groups, output, epsilon, device),
            conv2: conv3x3(output, output, device),
            conv_shortcut: (input != output).then(|| conv1x1(input, output, device)),
        }
    }
}

impl ResnetBlock {
    /// `x: [batch, input, height, width]`, `embedding: [batch, width]` where the block has one.
    pub(crate) fn forward(&self, x: Tensor<4>, embedding: Option<&Tensor<2>>) -> Tensor<4> {
        let mut h = self.conv1.forward(apply_norm(&self.norm1, x.clone(), Activation::Silu));
        if let (Some(projection), Some(embedding)) = (&self.time_emb_proj, embedding) {
            let [batch, channels, ..] = h.dims();
            let shift = projection.forward(silu(embedding.clone()));
            h = h + shift.reshape([batch, channels, 1, 1]);
        }
        let h = self.conv2.forward(apply_norm(&self.norm2, h, Activation::Silu));
        let skip = match &self.conv_shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        skip + h
    }
}
