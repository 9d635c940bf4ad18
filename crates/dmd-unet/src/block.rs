use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::attention::{SpatialTransformer, TransformerConfig};
use crate::config::UNetConfig;
use crate::resample::{Downsample, Upsample};
use crate::resnet::{Resample, ResnetBlock, ResnetConfig};

/// Layers shared by the UNet's blocks at one level.
pub(crate) struct LevelConfig<'a> {
    pub(crate) unet: &'a UNetConfig,
    pub(crate) level: usize,
    pub(crate) attends: bool,
}

impl LevelConfig<'_> {
    fn channels(&self) -> usize {
        self.unet.block_out_channels[self.level]
    }

    fn resnet(&self, input: usize, device: &Device) -> ResnetBlock {
        ResnetConfig {
            input,
            output: self.channels(),
            embedding: Some(4 * self.unet.block_out_channels[0]),
            groups: self.unet.norm_num_groups,
            epsilon: self.unet.norm_eps,
            scale_shift: false,
            resample: Resample::Keep,
        }
        .init(device)
    }

    fn attention(&self, device: &Device) -> SpatialTransformer {
        TransformerConfig {
            channels: self.channels(),
            context: self.unet.cross_attention_dim,
            num_heads: self.unet.attention_head_dim.at(self.level),
            groups: self.unet.norm_num_groups,
            linear_projection: self.unet.use_linear_projection,
        }
        .init(device)
    }

    fn attentions(&self, count: usize, device: &Device) -> Vec<SpatialTransformer> {
        let count = if self.attends { count } else { 0 };
        (0..count).map(|_| self.attention(device)).collect()
    }
}

/// `CrossAttnDownBlock2D`, or `DownBlock2D` when `attentions` is empty.
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    downsamplers: Vec<Downsample>,
}

impl DownBlock {
    pub(crate) fn new(config: &LevelConfig<'_>, input: usize, device: &Device) -> Self {
        let layers = config.unet.layers_per_block;
        let channels = config.channels();
        let last = config.level + 1 == config.unet.block_out_channels.len();
        Self {
            resnets: (0..layers)
                .map(|i| config.resnet(if i == 0 { input } else { channels }, device))
                .collect(),
            attentions: config.attentions(layers, device),
            downsamplers: (0..usize::from(!last)).map(|_| Downsample::symmetric(channels, device)).collect(),
        }
    }

    /// The block's output; every intermediate that the way up needs is appended to `skips`.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<4>,
        embedding: &Tensor<2>,
        text: &Tensor<3>,
        skips: &mut Vec<Tensor<4>>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, Some(embedding));
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, text);
            }
            skips.push(x.clone());
        }
        for downsample in &self.downsamplers {
            x = downsample.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// `UNetMidBlock2DCrossAttn`.
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    attentions: Vec<SpatialTransformer>,
    resnets: Vec<ResnetBlock>,
}

impl MidBlock {
    pub(crate) fn new(config: &LevelConfig<'_>, device: &Device) -> Self {
        let channels = config.channels();
        Self {
            attentions: config.attentions(1, device),
            resnets: vec![config.resnet(channels, device), config.resnet(channels, device)],
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>, embedding: &Tensor<2>, text: &Tensor<3>) -> Tensor<4> {
        let mut x = self.resnets[0].forward(x, Some(embedding));
        for (attention, resnet) in self.attentions.iter().zip(&self.resnets[1..]) {
            x = attention.forward(x, text);
            x = resnet.forward(x, Some(embedding));
        }
        x
    }
}

/// `CrossAttnUpBlock2D`, or `UpBlock2D` when `attentions` is empty.
#[derive(Module, Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    upsamplers: Vec<Upsample>,
}

impl UpBlock {
    /// `input` channels arrive from below; each residual block also receives one of `skips`, whose
    /// channels are listed in the order of use.
    pub(crate) fn new(config: &LevelConfig<'_>, input: usize, skips: &[usize], device: &Device) -> Self {
        let channels = config.channels();
        let before = |i| if i == 0 { input } else { channels };
        Self {
            resnets: skips
                .iter()
                .enumerate()
                .map(|(i, skip)| config.resnet(before(i) + skip, device))
                .collect(),
            attentions: config.attentions(skips.len(), device),
            upsamplers: (0..usize::from(config.level > 0)).map(|_| Upsample::new(channels, device)).collect(),
        }
    }

    /// Takes one skip per residual block from the end of `skips`.
    ///
    /// # Panics
    ///
    /// If `skips` runs out: encoder and decoder are not of one configuration.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<4>,
        embedding: &Tensor<2>,
        text: &Tensor<3>,
        skips: &mut Vec<Tensor<4>>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("as many skips as the encoder pushed");
            x = resnet.forward(Tensor::cat(vec![x, skip], 1), Some(embedding));
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, text);
            }
        }
        for upsample in &self.upsamplers {
            x = upsample.forward(x);
        }
        x
    }
}
