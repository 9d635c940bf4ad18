use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::Options;
use super::{four, one, thirty_two, three, two};
use crate::Error;

/// `_class_name` of an [`AutoencoderConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AutoencoderClass {
    /// The only accepted value.
    #[default]
    AutoencoderKL,
}

/// The kind of a block of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncoderBlock {
    /// Residual blocks.
    #[serde(rename = "DownEncoderBlock2D")]
    Plain,
}

/// The kind of a block of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecoderBlock {
    /// Residual blocks.
    #[serde(rename = "UpDecoderBlock2D")]
    Plain,
}

/// `vae/config.json`: the options of diffusers' `AutoencoderKL` that Stable Diffusion uses. Any other option must be
/// absent or neutral (see [`Self::validate`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoencoderConfig {
    /// The network's class in diffusers.
    #[serde(rename = "_class_name", default)]
    pub class_name: AutoencoderClass,
    /// Channels of a picture.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// The encoder's blocks.
    pub down_block_types: Vec<EncoderBlock>,
    /// The decoder's blocks.
    pub up_block_types: Vec<DecoderBlock>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per block of the encoder. A block of the decoder has one more.
    #[serde(default = "one")]
    pub layers_per_block: usize,
    /// Channels of a latent.
    #[serde(default = "four")]
    pub latent_channels: usize,
    /// Number of groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Height and width of the pictures the network was trained on.
    #[serde(default = "thirty_two")]
    pub sample_size: usize,
    /// Latents are multiplied by this after encoding, so that their variance is about 1; 0.18215
    /// for Stable Diffusion 1.x (Rombach et al. 2022, appendix G).
    #[serde(default = "scaling_factor")]
    pub scaling_factor: f64,
    /// All other keys of the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn scaling_factor() -> f64 {
    0.18215
}

impl AutoencoderConfig {
    /// The configuration of Stable Diffusion 1.5 (the `vae/config.json` of its repository), for 512×512 pictures.
    pub fn sd15() -> Self {
        Self { other: BTreeMap::new(), ..Self::of_widths(512, vec![128, 256, 512, 512]) }
    }

    /// An autoencoder for square pictures, with `widths` channels per level. The other options are those of Stable
    /// Diffusion 1.5.
    pub fn of_widths(sample_size: usize, widths: Vec<usize>) -> Self {
        Self {
            class_name: AutoencoderClass::default(),
            in_channels: three(),
            out_channels: three(),
            down_block_types: vec![EncoderBlock::Plain; widths.len()],
            up_block_types: vec![DecoderBlock::Plain; widths.len()],
            block_out_channels: widths,
            layers_per_block: two(),
            latent_channels: four(),
            norm_num_groups: thirty_two(),
            sample_size,
            scaling_factor: scaling_factor(),
            other: [("act_fn".to_owned(), "silu".into())].into(),
        }
    }

    /// Height of a picture divided by the height of its latent.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    pub fn validate(&self) -> Result<(), Error> {
        let options = Options("autoencoder");
        let channels = &self.block_out_channels;
        options.per_level("down_block_types", &self.down_block_types, channels.len())?;
        options.per_level("up_block_types", &self.up_block_types, channels.len())?;
        options.channels("block_out_channels", channels)?;
        options.counts("in_channels", &[self.in_channels])?;
        options.counts("out_channels", &[self.out_channels])?;
        options.counts("latent_channels", &[self.latent_channels])?;
        options.counts("sample_size", &[self.sample_size])?;
        options.layers("layers_per_block", self.layers_per_block)?;
        options.divides("norm_num_groups", self.norm_num_groups, channels)?;
        options.positive("scaling_factor", self.scaling_factor)?;
        options.neutral(
            &self.other,
            &[
                ("act_fn", json!("silu")),
                ("act_fn", json!("swish")),
                ("shift_factor", Value::Null),
                ("shift_factor", json!(0.0)),
                ("use_quant_conv", json!(true)),
                ("use_post_quant_conv", json!(true)),
                ("mid_block_add_attention", json!(true)),
            ],
        )
    }
}
