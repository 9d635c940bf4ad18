use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::Options;
use super::{four, three};
use crate::Error;

/// `_class_name` of a [`TinyAutoencoderConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TinyAutoencoderClass {
    /// The only accepted value.
    #[default]
    AutoencoderTiny,
}

/// `config.json` of an `AutoencoderTiny`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TinyAutoencoderConfig {
    /// The network's class in diffusers.
    #[serde(rename = "_class_name", default)]
    pub class_name: TinyAutoencoderClass,
    /// Channels of a picture.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// Channels per level of the encoder.
    #[serde(default = "widths")]
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels per level of the decoder.
    #[serde(default = "widths")]
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder.
    #[serde(default = "encoder_blocks")]
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks per level of the decoder.
    #[serde(default = "decoder_blocks")]
    pub num_decoder_blocks: Vec<usize>,
    /// Channels of a latent.
    #[serde(default = "four")]
    pub latent_channels: usize,
    /// Latents are multiplied by this after encoding; 1 for TAESD.
    #[serde(default = "unit")]
    pub scaling_factor: f64,
    /// All other keys of the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn unit() -> f64 {
    1.0
}
fn widths() -> Vec<usize> {
    vec![64; 4]
}
fn encoder_blocks() -> Vec<usize> {
    vec![1, 3, 3, 3]
}
fn decoder_blocks() -> Vec<usize> {
    vec![3, 3, 3, 1]
}

impl TinyAutoencoderConfig {
    /// Height of a picture divided by the height of its latent.
    pub fn downsampling(&self) -> usize {
        1 << self.encoder_block_out_channels.len().saturating_sub(1)
    }

    /// Checks that this implementation supports every option.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], which names the first option that is not supported.
    pub fn validate(&self) -> Result<(), Error> {
        let options = Options("tiny autoencoder");
        let levels = self.encoder_block_out_channels.len();
        for (key, list) in [
            ("encoder_block_out_channels", &self.encoder_block_out_channels),
            ("decoder_block_out_channels", &self.decoder_block_out_channels),
        ] {
            options.per_level(key, list, levels)?;
            options.channels(key, list)?;
            // The convolution between two levels does not change the number of channels.
            let same = list.iter().all(|channels| *channels == list[0]);
            options.require(same, key, list, "the same number for all levels")?;
        }
        for (key, blocks) in [
            ("num_encoder_blocks", &self.num_encoder_blocks),
            ("num_decoder_blocks", &self.num_decoder_blocks),
        ] {
            options.per_level(key, blocks, levels)?;
            blocks.iter().try_for_each(|count| options.within(key, *count, 0..=64))?;
        }
        options.counts("in_channels", &[self.in_channels])?;
        options.counts("out_channels", &[self.out_channels])?;
        options.counts("latent_channels", &[self.latent_channels])?;
        options.positive("scaling_factor", self.scaling_factor)?;
        options.neutral(
            &self.other,
            &[
                ("act_fn", json!("relu")),
                ("upsample_fn", json!("nearest")),
                ("upsampling_scaling_factor", json!(2)),
                ("shift_factor", json!(0.0)),
                ("latent_magnitude", json!(3)),
                ("latent_shift", json!(0.5)),
                // This key repeats the widths. The network does not use it.
                ("block_out_channels", json!(self.encoder_block_out_channels)),
            ],
        )
    }
}
