use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::{Options, PerLevel, uniform};
use super::{eight, four, norm_eps, thirty_two, two};
use crate::Error;

/// `_class_name` of a [`UNetConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UNetClass {
    /// The only accepted value.
    #[default]
    UNet2DConditionModel,
}

/// The kind of a down block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks.
    #[serde(rename = "DownBlock2D")]
    Plain,
    /// Residual blocks, each followed by attention to the text.
    #[serde(rename = "CrossAttnDownBlock2D")]
    CrossAttention,
}

/// The kind of an up block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks.
    #[serde(rename = "UpBlock2D")]
    Plain,
    /// Residual blocks, each followed by attention to the text.
    #[serde(rename = "CrossAttnUpBlock2D")]
    CrossAttention,
}

/// `unet/config.json`: the options of diffusers' `UNet2DConditionModel` that Stable Diffusion uses. SDXL's additional
/// options are in [`XlUNetConfig`](crate::XlUNetConfig). Any other option must be absent or neutral (see
/// [`Self::validate`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UNetConfig {
    /// The network's class in diffusers.
    #[serde(rename = "_class_name", default)]
    pub class_name: UNetClass,
    /// Height and width of the latents the network was trained on.
    #[serde(deserialize_with = "uniform")]
    pub sample_size: usize,
    /// Channels of `x_t`.
    #[serde(default = "four")]
    pub in_channels: usize,
    /// Channels of the output.
    #[serde(default = "four")]
    pub out_channels: usize,
    /// The down blocks, from the highest resolution to the lowest.
    pub down_block_types: Vec<DownBlock>,
    /// The up blocks, from the lowest resolution to the highest.
    pub up_block_types: Vec<UpBlock>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per down block. An up block has one more.
    #[serde(default = "two", deserialize_with = "uniform")]
    pub layers_per_block: usize,
    /// Width of the text features.
    #[serde(deserialize_with = "uniform")]
    pub cross_attention_dim: usize,
    /// Number of attention *heads* per level. The name is a historical mistake of diffusers.
    #[serde(default = "eight_heads")]
    pub attention_head_dim: PerLevel,
    /// Number of transformer blocks of each attention, per level. The middle block uses the number of the deepest
    /// level. `None` means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer_layers_per_block: Option<PerLevel>,
    /// Number of groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' normalisations.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// Whether the projections around the transformers are linear layers (SD 2.x) instead of 1×1 convolutions.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Number of sinusoids that encode the guidance scale, for a network that takes it as an input: a latent
    /// consistency model.
    #[serde(default)]
    pub time_cond_proj_dim: Option<usize>,
    /// All other keys of the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn eight_heads() -> PerLevel {
    PerLevel::All(eight())
}

impl UNetConfig {
    /// The configuration of Stable Diffusion 1.5 (the `unet/config.json` of its repository), for 64×64 latents.
    pub fn sd15() -> Self {
        use DownBlock::CrossAttention as Down;
        use UpBlock::CrossAttention as Up;

        Self {
            down_block_types: vec![Down, Down, Down, DownBlock::Plain],
            up_block_types: vec![UpBlock::Plain, Up, Up, Up],
            attention_head_dim: eight_heads(),
            other: BTreeMap::new(),
            ..Self::attending(64, vec![320, 640, 1280, 1280], 768)
        }
    }

    /// A network with these widths, whose levels all attend to text features of the given width. The other options are
    /// those of Stable Diffusion 1.5.
    pub fn attending(sample_size: usize, widths: Vec<usize>, text_width: usize) -> Self {
        Self {
            class_name: UNetClass::default(),
            sample_size,
            in_channels: four(),
            out_channels: four(),
            down_block_types: vec![DownBlock::CrossAttention; widths.len()],
            up_block_types: vec![UpBlock::CrossAttention; widths.len()],
            block_out_channels: widths,
            layers_per_block: two(),
            cross_attention_dim: text_width,
            attention_head_dim: eight_heads(),
            transformer_layers_per_block: None,
            norm_num_groups: thirty_two(),
            norm_eps: norm_eps(),
            use_linear_projection: false,
            time_cond_proj_dim: None,
            other: [("act_fn".to_owned(), "silu".into())].into(),
        }
    }

    /// Whether the down block of a level attends to the text.
    pub(crate) fn attends_down(&self, level: usize) -> bool {
        self.down_block_types[level] == DownBlock::CrossAttention
    }

    /// Whether an up block (counted from the deepest level) attends to the text.
    pub(crate) fn attends_up(&self, block: usize) -> bool {
        self.up_block_types[block] == UpBlock::CrossAttention
    }

    /// Number of transformer blocks of each attention of a level.
    pub(crate) fn transformer_blocks(&self, level: usize) -> usize {
        self.transformer_layers_per_block.as_ref().map_or(1, |depths| depths.at(level))
    }

    /// Height of a latent divided by the height of the deepest level.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    pub fn validate(&self) -> Result<(), Error> {
        let options = Options("UNet");
        let channels = &self.block_out_channels;
        options.per_level("down_block_types", &self.down_block_types, channels.len())?;
        options.per_level("up_block_types", &self.up_block_types, channels.len())?;
        options.channels("block_out_channels", channels)?;
        options.counts("in_channels", &[self.in_channels])?;
        options.counts("out_channels", &[self.out_channels])?;
        options.counts("cross_attention_dim", &[self.cross_attention_dim])?;
        options.counts("sample_size", &[self.sample_size])?;
        options.layers("layers_per_block", self.layers_per_block)?;
        options.divides("norm_num_groups", self.norm_num_groups, channels)?;
        options.positive("norm_eps", self.norm_eps)?;
        if let PerLevel::Each(heads) = &self.attention_head_dim {
            options.per_level("attention_head_dim", heads, channels.len())?;
        }
        for (level, channels) in channels.iter().enumerate() {
            options.divides("attention_head_dim", self.attention_head_dim.at(level), &[*channels])?;
        }
        if let Some(PerLevel::Each(depths)) = &self.transformer_layers_per_block {
            options.per_level("transformer_layers_per_block", depths, channels.len())?;
        }
        for level in 0..channels.len() {
            let sane = (1..=64).contains(&self.transformer_blocks(level));
            let must = "from 1 to 64 blocks of each attention";
            options.require(
                sane,
                "transformer_layers_per_block",
                &self.transformer_layers_per_block,
                must,
            )?;
        }
        if let Some(sinusoids) = self.time_cond_proj_dim {
            let sane = (4..=4096).contains(&sinusoids) && sinusoids.is_multiple_of(2);
            options.require(sane, "time_cond_proj_dim", sinusoids, "an even number from 4 to 4096")?;
        }
        options.neutral(
            &self.other,
            &[
                ("center_input_sample", json!(false)),
                ("flip_sin_to_cos", json!(true)),
                ("freq_shift", json!(0)),
                ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
                ("downsample_padding", json!(1)),
                ("mid_block_scale_factor", json!(1)),
                ("act_fn", json!("silu")),
                ("act_fn", json!("swish")),
                ("resnet_time_scale_shift", json!("default")),
                ("resnet_out_scale_factor", json!(1.0)),
                ("time_embedding_type", json!("positional")),
                ("time_embedding_dim", Value::Null),
                ("time_embedding_dim", json!(4 * channels[0])),
                ("conv_in_kernel", json!(3)),
                ("conv_out_kernel", json!(3)),
                ("attention_type", json!("default")),
            ],
        )
    }
}
