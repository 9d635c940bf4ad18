use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::Options;
use super::{eight, norm_eps, thirty_two, three, two};
use crate::Error;
use crate::block::Resampling;
use crate::resnet::TimeScaleShift;

/// `_class_name` of a [`ClassUNetConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ClassUNetClass {
    /// The only accepted value.
    #[default]
    UNet2DModel,
}

/// The kind of a down block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClassDownBlock {
    /// Residual blocks.
    #[serde(rename = "DownBlock2D")]
    Plain,
    /// Residual blocks, each followed by attention over the positions.
    #[serde(rename = "AttnDownBlock2D")]
    Attention,
    /// Residual blocks, the last of which halves the picture.
    #[serde(rename = "ResnetDownsampleBlock2D")]
    Residual,
}

/// The kind of an up block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClassUpBlock {
    /// Residual blocks.
    #[serde(rename = "UpBlock2D")]
    Plain,
    /// Residual blocks, each followed by attention over the positions.
    #[serde(rename = "AttnUpBlock2D")]
    Attention,
    /// Residual blocks, the last of which doubles the picture.
    #[serde(rename = "ResnetUpsampleBlock2D")]
    Residual,
}

/// `unet/config.json`: the options of diffusers' `UNet2DModel` that class-conditional and unconditional pixel models
/// use, such as the ImageNet-64 model (ADM). Any other option must be absent or neutral (see [`Self::validate`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassUNetConfig {
    /// The network's class in diffusers.
    #[serde(rename = "_class_name", default)]
    pub class_name: ClassUNetClass,
    /// Height and width of the pictures.
    pub sample_size: usize,
    /// Channels of `x_t`.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of the output.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// The down blocks, from the highest resolution to the lowest.
    pub down_block_types: Vec<ClassDownBlock>,
    /// The up blocks, from the lowest resolution to the highest.
    pub up_block_types: Vec<ClassUpBlock>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per down block. An up block has one more.
    #[serde(default = "two")]
    pub layers_per_block: usize,
    /// Channels of an attention head.
    #[serde(default = "eight")]
    pub attention_head_dim: usize,
    /// Number of groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Epsilon of every group normalisation.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// How residual blocks use the time embedding.
    #[serde(default)]
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How levels with attention halve the picture.
    #[serde(default)]
    pub downsample_type: Resampling,
    /// How levels with attention double the picture.
    #[serde(default)]
    pub upsample_type: Resampling,
    /// Number of classes; absent for an unconditional network.
    #[serde(default)]
    pub num_class_embeds: Option<usize>,
    /// All other keys of the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl ClassUNetConfig {
    /// A network for square pictures. It has attention at its deepest level, and the time embedding scales and shifts
    /// as in ADM.
    pub fn small(sample_size: usize, channels: usize, widths: Vec<usize>, classes: usize) -> Self {
        let mut down_block_types = vec![ClassDownBlock::Plain; widths.len()];
        let mut up_block_types = vec![ClassUpBlock::Plain; widths.len()];
        down_block_types.last_mut().into_iter().for_each(|deepest| *deepest = ClassDownBlock::Attention);
        up_block_types.first_mut().into_iter().for_each(|deepest| *deepest = ClassUpBlock::Attention);
        Self {
            class_name: ClassUNetClass::default(),
            sample_size,
            in_channels: channels,
            out_channels: channels,
            down_block_types,
            up_block_types,
            block_out_channels: widths,
            layers_per_block: 1,
            attention_head_dim: 8,
            norm_num_groups: 8,
            norm_eps: norm_eps(),
            resnet_time_scale_shift: TimeScaleShift::ScaleShift,
            downsample_type: Resampling::Convolution,
            upsample_type: Resampling::Convolution,
            num_class_embeds: (classes > 0).then_some(classes),
            other: [("act_fn".to_owned(), "silu".into()), ("attn_norm_num_groups".to_owned(), 8.into())]
                .into(),
        }
    }

    /// Height of a picture divided by the height of the deepest level.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Number of classes; 0 for an unconditional network.
    pub fn classes(&self) -> usize {
        self.num_class_embeds.unwrap_or(0)
    }

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    pub fn validate(&self) -> Result<(), Error> {
        let options = Options("class-conditional UNet");
        let channels = &self.block_out_channels;
        options.per_level("down_block_types", &self.down_block_types, channels.len())?;
        options.per_level("up_block_types", &self.up_block_types, channels.len())?;
        options.channels("block_out_channels", channels)?;
        options.counts("in_channels", &[self.in_channels])?;
        options.counts("out_channels", &[self.out_channels])?;
        options.counts("sample_size", &[self.sample_size])?;
        options.counts("num_class_embeds", &[self.num_class_embeds.unwrap_or(1)])?;
        options.layers("layers_per_block", self.layers_per_block)?;
        options.divides("norm_num_groups", self.norm_num_groups, channels)?;
        options.positive("norm_eps", self.norm_eps)?;
        options.divides("attention_head_dim", self.attention_head_dim, channels)?;
        let groups = json!(self.norm_num_groups);
        // Where the embedding scales and this key is absent, diffusers omits the normalisation of the middle block's
        // attention.
        let absent = match self.resnet_time_scale_shift {
            TimeScaleShift::Added => Value::Null,
            TimeScaleShift::ScaleShift => groups.clone(),
        };
        options.neutral(
            &self.other,
            &[
                ("center_input_sample", json!(false)),
                ("flip_sin_to_cos", json!(true)),
                ("freq_shift", json!(0)),
                ("time_embedding_type", json!("positional")),
                ("time_embedding_dim", Value::Null),
                ("time_embedding_dim", json!(4 * channels[0])),
                ("mid_block_type", json!("UNetMidBlock2D")),
                ("mid_block_scale_factor", json!(1)),
                ("downsample_padding", json!(1)),
                ("act_fn", json!("silu")),
                ("act_fn", json!("swish")),
                ("add_attention", json!(true)),
                ("attn_norm_num_groups", groups),
                ("attn_norm_num_groups", absent),
            ],
        )
    }
}
