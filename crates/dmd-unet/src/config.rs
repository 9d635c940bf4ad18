use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;

/// One value for all levels of a network, or one per level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same everywhere.
    All(usize),
    /// From the first level down.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The value at a level.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[level],
        }
    }
}

/// `unet/config.json`: the options of diffusers' `UNet2DConditionModel` that Stable Diffusion 1.x
/// and 2.x use. Any other option must be absent or neutral (see [`Self::validate`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UNetConfig {
    /// Always `UNet2DConditionModel`.
    #[serde(rename = "_class_name", default = "unet_class")]
    pub class_name: String,
    /// Height and width of the latents the network was trained on.
    pub sample_size: usize,
    /// Channels of `x_t`.
    #[serde(default = "four")]
    pub in_channels: usize,
    /// Channels of the output.
    #[serde(default = "four")]
    pub out_channels: usize,
    /// `CrossAttnDownBlock2D` or `DownBlock2D` per level.
    pub down_block_types: Vec<String>,
    /// `CrossAttnUpBlock2D` or `UpBlock2D`, from the deepest level up.
    pub up_block_types: Vec<String>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    #[serde(default = "two")]
    pub layers_per_block: usize,
    /// Width of the text features.
    pub cross_attention_dim: usize,
    /// Number of attention *heads* per level (the name is diffusers' historic slip).
    #[serde(default = "eight_heads")]
    pub attention_head_dim: PerLevel,
    /// Groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' normalisations.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// Linear instead of 1×1-convolution projections around the transformers (SD 2.x).
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// `vae/config.json`: the options of diffusers' `AutoencoderKL` that Stable Diffusion uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoencoderConfig {
    /// Always `AutoencoderKL`.
    #[serde(rename = "_class_name", default = "autoencoder_class")]
    pub class_name: String,
    /// Channels of a picture.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// `DownEncoderBlock2D` per level.
    pub down_block_types: Vec<String>,
    /// `UpDecoderBlock2D` per level.
    pub up_block_types: Vec<String>,
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

fn unet_class() -> String {
    "UNet2DConditionModel".to_owned()
}
fn autoencoder_class() -> String {
    "AutoencoderKL".to_owned()
}
fn one() -> usize {
    1
}
fn two() -> usize {
    2
}
fn three() -> usize {
    3
}
fn four() -> usize {
    4
}
fn thirty_two() -> usize {
    32
}
fn eight_heads() -> PerLevel {
    PerLevel::All(8)
}
fn norm_eps() -> f64 {
    1e-5
}
fn scaling_factor() -> f64 {
    0.18215
}

impl UNetConfig {
    /// Stable Diffusion 1.5's (the `unet/config.json` of its repository), for 64×64 latents.
    pub fn sd15() -> Self {
        let types = |attending: &str, plain: &str| {
            [[attending; 3].as_slice(), &[plain]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut up_block_types = types("CrossAttnUpBlock2D", "UpBlock2D");
        up_block_types.reverse();
        Self {
            class_name: unet_class(),
            sample_size: 64,
            in_channels: four(),
            out_channels: four(),
            down_block_types: types("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: two(),
            cross_attention_dim: 768,
            attention_head_dim: eight_heads(),
            norm_num_groups: thirty_two(),
            norm_eps: norm_eps(),
            use_linear_projection: false,
            other: BTreeMap::new(),
        }
    }

    /// Whether a level attends to the text on the way down.
    pub(crate) fn attends_down(&self, level: usize) -> bool {
        self.down_block_types[level] == "CrossAttnDownBlock2D"
    }

    /// Whether an up block (counted from the deepest level) attends to the text.
    pub(crate) fn attends_up(&self, block: usize) -> bool {
        self.up_block_types[block] == "CrossAttnUpBlock2D"
    }

    /// The factor between latents and the deepest level.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that every option is one this implementation computes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that is not.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = refusal("UNet");
        check_class("UNet", &self.class_name, &unet_class())?;
        let levels = self.block_out_channels.len();
        check_levels(
            "UNet",
            "down_block_types",
            &self.down_block_types,
            levels,
            &["CrossAttnDownBlock2D", "DownBlock2D"],
        )?;
        check_levels(
            "UNet",
            "up_block_types",
            &self.up_block_types,
            levels,
            &["CrossAttnUpBlock2D", "UpBlock2D"],
        )?;
        check_counts("UNet", "block_out_channels", &self.block_out_channels)?;
        let widths = [self.in_channels, self.out_channels, self.cross_attention_dim, self.sample_size];
        check_counts("UNet", "cross_attention_dim", &widths)?;
        check_layers("UNet", self.layers_per_block)?;
        check_groups("UNet", &self.block_out_channels, self.norm_num_groups)?;
        if let PerLevel::Each(heads) = &self.attention_head_dim
            && heads.len() != levels
        {
            return Err(refuse("attention_head_dim", &json!(heads), &format!(" with {levels} levels")));
        }
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.attention_head_dim.at(level);
            if heads == 0 || channels % heads != 0 {
                return Err(refuse(
                    "attention_head_dim",
                    &json!(heads),
                    &format!(": it must divide {channels} channels"),
                ));
            }
        }
        check_other(
            "UNet",
            &self.other,
            &[
                ("center_input_sample", json!(false)),
                ("flip_sin_to_cos", json!(true)),
                ("freq_shift", json!(0)),
                ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
                ("downsample_padding", json!(1)),
                ("mid_block_scale_factor", json!(1)),
                ("act_fn", json!("silu")),
                ("dropout", json!(0.0)),
                ("transformer_layers_per_block", json!(1)),
                ("resnet_time_scale_shift", json!("default")),
                ("resnet_out_scale_factor", json!(1.0)),
                ("time_embedding_type", json!("positional")),
                ("conv_in_kernel", json!(3)),
                ("conv_out_kernel", json!(3)),
                ("attention_type", json!("default")),
                // In half precision only; everything here is computed in single.
                ("upcast_attention", json!(true)),
                ("upcast_attention", json!(false)),
                ("addition_embed_type_num_heads", json!(64)),
            ],
        )
    }
}

impl AutoencoderConfig {
    /// Stable Diffusion 1.5's (the `vae/config.json` of its repository), for 512×512 pictures.
    pub fn sd15() -> Self {
        Self {
            class_name: autoencoder_class(),
            in_channels: three(),
            out_channels: three(),
            down_block_types: vec!["DownEncoderBlock2D".to_owned(); 4],
            up_block_types: vec!["UpDecoderBlock2D".to_owned(); 4],
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: two(),
            latent_channels: four(),
            norm_num_groups: thirty_two(),
            sample_size: 512,
            scaling_factor: scaling_factor(),
            other: BTreeMap::new(),
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
        check_class("autoencoder", &self.class_name, &autoencoder_class())?;
        let levels = self.block_out_channels.len();
        check_levels(
            "autoencoder",
            "down_block_types",
            &self.down_block_types,
            levels,
            &["DownEncoderBlock2D"],
        )?;
        check_levels("autoencoder", "up_block_types", &self.up_block_types, levels, &["UpDecoderBlock2D"])?;
        check_counts("autoencoder", "block_out_channels", &self.block_out_channels)?;
        check_counts(
            "autoencoder",
            "latent_channels",
            &[self.latent_channels, self.in_channels, self.out_channels],
        )?;
        check_layers("autoencoder", self.layers_per_block)?;
        check_groups("autoencoder", &self.block_out_channels, self.norm_num_groups)?;
        check_other(
            "autoencoder",
            &self.other,
            &[
                ("act_fn", json!("silu")),
                ("force_upcast", json!(true)),
                ("force_upcast", json!(false)),
                ("use_quant_conv", json!(true)),
                ("use_post_quant_conv", json!(true)),
                ("mid_block_add_attention", json!(true)),
            ],
        )
    }
}

pub(crate) fn refusal(network: &'static str) -> impl Fn(&str, &Value, &str) -> Error {
    move |key, value, hint| Error::Unsupported {
        network,
        key: key.to_owned(),
        value: value.to_string(),
        hint: hint.to_owned(),
    }
}

pub(crate) fn check_class(network: &'static str, found: &str, expected: &str) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(refusal(network)("_class_name", &json!(found), &format!("; expected {expected}")))
}

pub(crate) fn check_levels(
    network: &'static str,
    key: &str,
    found: &[String],
    levels: usize,
    known: &[&str],
) -> Result<(), Error> {
    if (1..=MAX_LEVELS).contains(&levels)
        && found.len() == levels
        && found.iter().all(|name| known.contains(&name.as_str()))
    {
        return Ok(());
    }
    let hint = format!("; expected one of {} for each of {levels} levels", known.join(", "));
    Err(refusal(network)(key, &json!(found), &hint))
}

/// Most levels of a network: 2¹² latents to a bottleneck.
pub(crate) const MAX_LEVELS: usize = 12;

/// Most channels, or positions of a side: far above any published network, and small enough that the
/// size of a parameter never overflows.
const MAX_COUNT: usize = 65_536;

/// Every number is at least 1 and of a sane size: what a file says is not believed before its tensors
/// are seen.
pub(crate) fn check_counts(network: &'static str, key: &str, counts: &[usize]) -> Result<(), Error> {
    match counts.iter().find(|count| **count == 0 || **count > MAX_COUNT) {
        None => Ok(()),
        Some(count) => {
            Err(refusal(network)(key, &json!(count), &format!("; it is between 1 and {MAX_COUNT}")))
        }
    }
}

pub(crate) fn check_layers(network: &'static str, layers: usize) -> Result<(), Error> {
    match layers {
        1..=64 => Ok(()),
        _ => Err(refusal(network)("layers_per_block", &json!(layers), "; it is between 1 and 64")),
    }
}

pub(crate) fn check_groups(network: &'static str, channels: &[usize], groups: usize) -> Result<(), Error> {
    match channels.iter().find(|c| groups == 0 || **c % groups != 0) {
        None => Ok(()),
        Some(c) => Err(refusal(network)(
            "norm_num_groups",
            &json!(groups),
            &format!(": it must divide {c} channels"),
        )),
    }
}

/// Options outside the struct: private ones (`_..`), absent, false and listed values are neutral.
pub(crate) fn check_other(
    network: &'static str,
    other: &BTreeMap<String, Value>,
    neutral: &[(&str, Value)],
) -> Result<(), Error> {
    for (key, value) in other {
        let mut listed = neutral.iter().filter(|(name, _)| name == key).peekable();
        let fine = if listed.peek().is_some() {
            listed.any(|(_, expected)| {
                value == expected || value.as_f64().is_some_and(|v| Some(v) == expected.as_f64())
            })
        } else {
            key.starts_with('_') || value.is_null() || *value == json!(false)
        };
        // diffusers writes these two as null when it means the default.
        let null_default = value.is_null() && ["mid_block_type", "dropout"].contains(&key.as_str());
        if !fine && !null_default {
            return Err(refusal(network)(key, value, ""));
        }
    }
    Ok(())
}
