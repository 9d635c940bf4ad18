use burn::tensor::{Device, FloatDType, Tensor};
use dmd_weights::KeyMap;

use crate::attention::{SpatialTransformer, TransformerConfig};
use crate::block::{BlockConfig, Level, Resampling};
use crate::config::UNetConfig;
use crate::resnet::TimeScaleShift;
use crate::unet::{BodyConfig, Encoded, in_type};
use crate::{Costs, Error, Network, Sizes, UNET_KEYS, UNet};

/// diffusers' `UNet2DConditionModel` as Stable Diffusion 1.x and 2.x use it.
pub type UNet2d = UNet<SpatialTransformer>;

/// Number of tokens of a prompt in CLIP.
pub(crate) const TOKENS: usize = 77;

impl UNetConfig {
    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// As [`UNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<UNet2d, Error> {
        self.validate()?;
        let levels = self.block_out_channels.len();
        let level = |index, attends| Level { index, attends, resampling: Resampling::Convolution };
        let attention = |level: usize| {
            TransformerConfig {
                channels: self.block_out_channels[level],
                context: self.cross_attention_dim,
                num_heads: self.attention_head_dim.at(level),
                groups: self.norm_num_groups,
                linear_projection: self.use_linear_projection,
                depth: self.transformer_blocks(level),
            }
            .init(device)
        };
        let body = BodyConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            classes: None,
            guidance: self.time_cond_proj_dim,
            blocks: BlockConfig {
                channels: &self.block_out_channels,
                layers: self.layers_per_block,
                groups: self.norm_num_groups,
                epsilon: self.norm_eps,
                scale_shift: TimeScaleShift::Added,
                attention: &attention,
                device,
            },
            down: (0..levels).map(|i| level(i, self.attends_down(i))).collect(),
            up: (0..levels).map(|block| level(levels - 1 - block, self.attends_up(block))).collect(),
        };
        Ok(body.init())
    }
}

impl UNet2d {
    /// `text`: `[batch, tokens, cross_attention_dim]`.
    fn down_with(&self, x: Tensor<4>, t: Tensor<1>, text: &Tensor<3>) -> Encoded<Tensor<3>> {
        self.down(x, self.embedding(t, None), in_type(text.clone(), self.dtype()))
    }
}

impl Network for UNet2d {
    /// Text features `[batch, tokens, cross_attention_dim]`.
    type Condition = Tensor<3>;
    type Config = UNetConfig;

    const KEYS: KeyMap = UNET_KEYS;
    const HALVES_ODD: bool = true;

    fn validate(config: &UNetConfig) -> Result<(), Error> {
        config.validate()
    }

    fn init(config: &UNetConfig, device: &Device) -> Result<Self, Error> {
        config.init(device)
    }

    fn sizes(config: &UNetConfig) -> Sizes {
        Sizes {
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            sample_size: config.sample_size,
            downsampling: config.downsampling(),
            context_width: Some(config.cross_attention_dim),
            classes: 0,
            told_guidance: config.time_cond_proj_dim.is_some(),
            bottleneck_channels: config.block_out_channels.last().copied().unwrap_or(0),
            norm_num_groups: config.norm_num_groups,
        }
    }

    fn with_guidance(self, scale: f64) -> Self {
        self.guided_by(scale)
    }

    fn recomputing(self) -> Self {
        self.recomputing_blocks()
    }

    fn computing_in(self, dtype: FloatDType) -> Self {
        self.computed_in(dtype)
    }

    fn forward(&self, x: Tensor<4>, t: Tensor<1>, text: &Tensor<3>) -> Tensor<4> {
        self.up(self.down_with(x, t, text))
    }

    fn costs(&self, side: [usize; 2]) -> Costs {
        self.costs_on(side, TOKENS)
    }

    fn encode(&self, x: Tensor<4>, t: Tensor<1>, text: &Tensor<3>) -> Tensor<4> {
        self.down_with(x, t, text).bottleneck()
    }
}
