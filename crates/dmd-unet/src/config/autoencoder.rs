use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::Options;
use super::{four, one, thirty_two, three, two};
use crate::Error;

/// `_class_name` of an [`AutoencoderConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AutoencoderClass {
    /// The only one.
    #[default]
    AutoencoderKL,
}

/// What a level of the encoder is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncoderBlock {
    /// Residual blocks.
    #[serde(rename = "DownEncoderBlock2D")]
    Plain,
}

/// What a level of the decoder is made of.
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
    /// The encoder's levels.
    pub down_block_types: Vec<EncoderBlock>,
    /// The decoder's levels.
    pub up_block_types: Vec<DecoderBlock>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level in the encoder; one more in the decoder.
    #[serde(default = "one")]
    pub layers_per_block: usize,
    /// Channels of a latent.
    #[serde(default = "four")]
    pub latent_channels: usize,
    /// Groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Height and width of the pictures the network was trained on.
    #[serde(default = "thirty_two")]
    pub sample_size: usize,
    /// Latents are multiplied by this after encoding, so that their variance is about 1; 0.18215
    /// for Stable Diffusion 1.x (Rombach et al. 2022, appendix G).
    #[serde(default = "scaling_factor")]
    pub scaling_factor: f64,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn scaling_factor() -> f64 {
    0.18215
}

impl AutoencoderConfig {
    /// Stable Diffusion 1.5's (the `vae/config.json` of its repository), for 512×512 pictures.
    pub fn sd15() -> Self {
        Self { other: BTreeMap::new(), ..Self::of_widths(512, vec![128, 256, 512, 512]) }
    }

    /// An autoencoder of these widths for square pictures. The rest is as in Stable Diffusion 1.5.
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

    /// The factor between pictures and latents.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that every option is one this implementation computes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that is not.
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
