use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::config::{
    check_class, check_counts, check_groups, check_layers, check_levels, check_other, refusal,
};

/// `unet/config.json`: the options of diffusers' `UNet2DModel` that class-conditional and unconditional pixel
/// models use, ImageNet-64's (ADM) among them. Any other option must be absent or neutral (see
/// [`Self::validate`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassUNetConfig {
    /// Always `UNet2DModel`.
    #[serde(rename = "_class_name", default = "class")]
    pub class_name: String,
    /// Height and width of the pictures.
    pub sample_size: usize,
    /// Channels of `x_t`.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Channels of the output.
    #[serde(default = "three")]
    pub out_channels: usize,
    /// `DownBlock2D`, `AttnDownBlock2D` or `ResnetDownsampleBlock2D` per level.
    pub down_block_types: Vec<String>,
    /// `UpBlock2D`, `AttnUpBlock2D` or `ResnetUpsampleBlock2D`, from the deepest level up.
    pub up_block_types: Vec<String>,
    /// Channels per level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; one more on the way up.
    #[serde(default = "two")]
    pub layers_per_block: usize,
    /// Channels of an attention head.
    #[serde(default = "eight")]
    pub attention_head_dim: usize,
    /// Groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: usize,
    /// Epsilon of every group normalisation.
    #[serde(default = "norm_eps")]
    pub norm_eps: f64,
    /// `default` (the embedding is added) or `scale_shift` (it also scales, as in ADM).
    #[serde(default = "added")]
    pub resnet_time_scale_shift: String,
    /// `conv` or `resnet`: how levels with attention halve the picture.
    #[serde(default = "conv")]
    pub downsample_type: String,
    /// `conv` or `resnet`: how levels with attention double it.
    #[serde(default = "conv")]
    pub upsample_type: String,
    /// Number of classes; none for an unconditional network.
    #[serde(default)]
    pub num_class_embeds: Option<usize>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn class() -> String {
    "UNet2DModel".to_owned()
}
fn two() -> usize {
    2
}
fn three() -> usize {
    3
}
fn eight() -> usize {
    8
}
fn thirty_two() -> usize {
    32
}
fn norm_eps() -> f64 {
    1e-5
}
fn added() -> String {
    "default".to_owned()
}
fn conv() -> String {
    "conv".to_owned()
}

const NETWORK: &str = "class-conditional UNet";

impl ClassUNetConfig {
    /// A network for square pictures with attention at its deepest level, the embedding scaling as in ADM.
    pub fn small(sample_size: usize, channels: usize, widths: Vec<usize>, classes: usize) -> Self {
        let last = widths.len().saturating_sub(1);
        let types = |plain: &str, attends: &str| -> Vec<String> {
            (0..widths.len()).map(|i| if i == last { attends } else { plain }.to_owned()).collect()
        };
        let mut up_block_types = types("UpBlock2D", "AttnUpBlock2D");
        up_block_types.reverse();
        Self {
            class_name: class(),
            sample_size,
            in_channels: channels,
            out_channels: channels,
            down_block_types: types("DownBlock2D", "AttnDownBlock2D"),
            up_block_types,
            block_out_channels: widths,
            layers_per_block: 1,
            attention_head_dim: 8,
            norm_num_groups: 8,
            norm_eps: 1e-5,
            resnet_time_scale_shift: "scale_shift".to_owned(),
            downsample_type: conv(),
            upsample_type: conv(),
            num_class_embeds: (classes > 0).then_some(classes),
            other: [("act_fn".to_owned(), "silu".into()), ("attn_norm_num_groups".to_owned(), 8.into())]
                .into(),
        }
    }

    /// The factor between pictures and the deepest level.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Number of classes; 0 for an unconditional network.
    pub fn classes(&self) -> usize {
        self.num_class_embeds.unwrap_or(0)
    }

    /// Checks that every option is one this implementation computes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the first option that is not.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = refusal(NETWORK);
        check_class(NETWORK, &self.class_name, &class())?;
        let levels = self.block_out_channels.len();
        let down = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"];
        let up = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"];
        check_levels(NETWORK, "down_block_types", &self.down_block_types, levels, &down)?;
        check_levels(NETWORK, "up_block_types", &self.up_block_types, levels, &up)?;
        check_counts(NETWORK, "block_out_channels", &self.block_out_channels)?;
        check_counts(NETWORK, "sample_size", &[self.in_channels, self.out_channels, self.sample_size])?;
        check_counts(NETWORK, "num_class_embeds", &[self.num_class_embeds.unwrap_or(1)])?;
        check_layers(NETWORK, self.layers_per_block)?;
        check_groups(NETWORK, &self.block_out_channels, self.norm_num_groups)?;
        let head = self.attention_head_dim;
        if head == 0 || self.block_out_channels.iter().any(|channels| channels % head != 0) {
            let hint = ": it must divide the channels of every level";
            return Err(refuse("attention_head_dim", &json!(head), hint));
        }
        for (key, value, known) in [
            ("resnet_time_scale_shift", &self.resnet_time_scale_shift, ["default", "scale_shift"]),
            ("downsample_type", &self.downsample_type, ["conv", "resnet"]),
            ("upsample_type", &self.upsample_type, ["conv", "resnet"]),
        ] {
            if !known.contains(&value.as_str()) {
                return Err(refuse(key, &json!(value), &format!("; expected {}", known.join(" or "))));
            }
        }
        let scales = self.resnet_time_scale_shift == "scale_shift";
        check_other(
            NETWORK,
            &self.other,
            &[
                ("center_input_sample", json!(false)),
                ("flip_sin_to_cos", json!(true)),
                ("freq_shift", json!(0)),
                ("time_embedding_type", json!("positional")),
                ("mid_block_type", json!("UNetMidBlock2D")),
                ("mid_block_scale_factor", json!(1)),
                ("downsample_padding", json!(1)),
                ("act_fn", json!("silu")),
                ("dropout", json!(0.0)),
                ("add_attention", json!(true)),
                ("attn_norm_num_groups", json!(self.norm_num_groups)),
                // diffusers then leaves the middle block's normalisation out where the embedding scales.
                ("attn_norm_num_groups", if scales { json!(self.norm_num_groups) } else { Value::Null }),
                // Sinusoids of the time a network is told; the number of times does not enter them.
                ("num_train_timesteps", self.other.get("num_train_timesteps").cloned().unwrap_or_default()),
            ],
        )
    }
}
