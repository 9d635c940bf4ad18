use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::Classes;
use dmd_weights::KeyMap;

use crate::attention::PositionAttention;
use crate::block::{BlockConfig, Level, Resampling};
use crate::unet::{BodyConfig, Encoded};
use crate::{ClassDownBlock, ClassUNetConfig, ClassUpBlock, Costs, Error, Network, Sizes, UNET_KEYS, UNet};

/// diffusers' `UNet2DModel`: a network for pictures that is class-conditional or unconditional, without text.
pub type ClassUNet2d = UNet<PositionAttention>;

impl ClassDownBlock {
    fn level(self, index: usize, of_attention: Resampling) -> Level {
        match self {
            Self::Plain => Level { index, attends: false, resampling: Resampling::Convolution },
            Self::Attention => Level { index, attends: true, resampling: of_attention },
            Self::Residual => Level { index, attends: false, resampling: Resampling::Residual },
        }
    }
}

impl ClassUpBlock {
    fn level(self, index: usize, of_attention: Resampling) -> Level {
        match self {
            Self::Plain => Level { index, attends: false, resampling: Resampling::Convolution },
            Self::Attention => Level { index, attends: true, resampling: of_attention },
            Self::Residual => Level { index, attends: false, resampling: Resampling::Residual },
        }
    }
}

impl ClassUNetConfig {
    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// As [`ClassUNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<ClassUNet2d, Error> {
        self.validate()?;
        let levels = self.block_out_channels.len();
        let attention = |level: usize| {
            let channels = self.block_out_channels[level];
            let norm = (self.norm_num_groups, self.norm_eps);
            PositionAttention::new(channels, channels / self.attention_head_dim, norm, device)
        };
        let body = BodyConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            classes: self.num_class_embeds,
            guidance: None,
            blocks: BlockConfig {
                channels: &self.block_out_channels,
                layers: self.layers_per_block,
                groups: self.norm_num_groups,
                epsilon: self.norm_eps,
                scale_shift: self.resnet_time_scale_shift,
                attention: &attention,
                device,
            },
            down: (0..levels).map(|i| self.down_block_types[i].level(i, self.downsample_type)).collect(),
            up: (0..levels)
                .map(|block| self.up_block_types[block].level(levels - 1 - block, self.upsample_type))
                .collect(),
        };
        Ok(body.init())
    }
}

impl ClassUNet2d {
    /// `classes`: `[batch, classes]`, or `None` if and only if the network has no classes.
    fn down_with(&self, x: Tensor<4>, t: Tensor<1>, classes: &Classes) -> Encoded<()> {
        self.down(x, self.embedding(t, classes.as_ref()), ())
    }
}

impl Network for ClassUNet2d {
    /// `[batch, classes]`, or `None` if and only if the network has no classes.
    type Condition = Classes;
    type Config = ClassUNetConfig;

    const KEYS: KeyMap = UNET_KEYS;

    fn validate(config: &ClassUNetConfig) -> Result<(), Error> {
        config.validate()
    }

    fn init(config: &ClassUNetConfig, device: &Device) -> Result<Self, Error> {
        config.init(device)
    }

    fn sizes(config: &ClassUNetConfig) -> Sizes {
        Sizes {
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            sample_size: config.sample_size,
            downsampling: config.downsampling(),
            context_width: None,
            classes: config.classes(),
            told_guidance: false,
            bottleneck_channels: config.block_out_channels.last().copied().unwrap_or(0),
            norm_num_groups: config.norm_num_groups,
        }
    }

    fn recomputing(self) -> Self {
        self.recomputing_blocks()
    }

    fn computing_in(self, dtype: FloatDType) -> Self {
        self.computed_in(dtype)
    }

    /// # Panics
    ///
    /// If the network has classes and `classes` is `None`, or the other way round.
    fn forward(&self, x: Tensor<4>, t: Tensor<1>, classes: &Classes) -> Tensor<4> {
        self.up(self.down_with(x, t, classes))
    }

    fn costs(&self, side: [usize; 2]) -> Costs {
        self.costs_on(side, 0)
    }

    fn encode(&self, x: Tensor<4>, t: Tensor<1>, classes: &Classes) -> Tensor<4> {
        self.down_with(x, t, classes).bottleneck()
    }
}
