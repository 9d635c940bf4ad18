//! Describes a part of a model: reads its configuration and compares it with the headers of its weights. Reads no
//! value.

use std::path::Path;

use burn::tensor::Device;
use dmd_clip::{CLIP_KEYS, ProjectedTextModel, TextConfig, Tokenizer};
use dmd_unet::{
    AUTOENCODER_KEYS, AutoencoderConfig, ClassUNet2d, Network, TINY_AUTOENCODER_KEYS, TinyAutoencoderConfig,
    UNet2d, XlUNet2d,
};
use dmd_weights::{KeyMap, Tensors, check, read, read_config, weight_file};
use serde_json::Value;

use crate::Error;
use crate::families::Part;
use crate::folder::ModelFolder;
use crate::stable_diffusion::MAX_TOKENS;

/// The description of a part of a model.
#[derive(Debug, Clone)]
pub struct Description {
    /// Class and architecture, as a text for users.
    pub text: String,
    /// The weights, of which only headers were read; `None` for a tokenizer.
    pub weights: Option<Tensors>,
}

impl ModelFolder {
    /// Describes a part, which is a tokenizer or a network. Networks are made on `device`, without values.
    ///
    /// # Errors
    ///
    /// When the part's files are missing, damaged or not supported, or the weights do not fit the configuration.
    pub fn describe(&self, part: Part, device: &Device) -> Result<Description, Error> {
        if part.is_tokenizer() {
            // The vocabulary does not depend on the number of positions.
            let tokenizer = Tokenizer::from_dir(&self.need(part)?, MAX_TOKENS)?;
            let text = format!("words up to number {}", tokenizer.largest_id());
            return Ok(Description { text, weights: None });
        }
        describe(&self.part(part), device)
    }
}

/// Describes the network in a folder. The class in its configuration says which network it is.
///
/// # Errors
///
/// As [`ModelFolder::describe`]; [`Error::UnknownNetwork`] for an unknown class.
pub fn describe(folder: &Path, device: &Device) -> Result<Description, Error> {
    let config: Value = read_config(folder)?;
    let class =
        config["_class_name"].as_str().or(config["architectures"][0].as_str()).unwrap_or("unknown class");
    let weights = read(&weight_file(folder, &["diffusion_pytorch_model", "model"])?)?;
    let channels = |key: &str| config[key].to_string().replace(',', ", ");
    let shape = match class {
        "UNet2DConditionModel" if config["addition_embed_type"] == "text_time" => {
            let found = fitting::<XlUNet2d>(folder, &weights, device)?;
            let (text, pooled) = (found.unet.cross_attention_dim, found.pooled_width());
            let depths = channels("transformer_layers_per_block");
            format!(
                "channels {}, {depths} transformer blocks, text {text} wide, whole prompts {pooled}",
                channels("block_out_channels")
            )
        }
        "UNet2DConditionModel" => {
            let config = fitting::<UNet2d>(folder, &weights, device)?;
            format!("channels {}, text {} wide", channels("block_out_channels"), config.cross_attention_dim)
        }
        "UNet2DModel" => {
            let config = fitting::<ClassUNet2d>(folder, &weights, device)?;
            format!("channels {}, {} classes", channels("block_out_channels"), config.classes())
        }
        "AutoencoderKL" => {
            let config: AutoencoderConfig = read_config(folder)?;
            check(&config.init(device)?, &weights, &AUTOENCODER_KEYS)?;
            format!("channels {}, latents × {}", channels("block_out_channels"), config.scaling_factor)
        }
        "AutoencoderTiny" => {
            let config: TinyAutoencoderConfig = read_config(folder)?;
            check(&config.init(device)?, &weights, &TINY_AUTOENCODER_KEYS)?;
            format!("channels {}", channels("decoder_block_out_channels"))
        }
        "CLIPTextModel" => {
            let config = TextConfig::from_dir(folder)?;
            check(&config.init(device)?, &weights, &CLIP_KEYS)?;
            format!("{} layers, {} wide", config.num_hidden_layers, config.hidden_size)
        }
        "CLIPTextModelWithProjection" => {
            let config = TextConfig::from_dir(folder)?;
            check(&ProjectedTextModel::init(&config, device)?, &weights, &KeyMap::default())?;
            let (layers, width) = (config.num_hidden_layers, config.hidden_size);
            format!("{layers} layers, {width} wide, projected to {}", config.projection_dim.unwrap_or(0))
        }
        other => return Err(Error::UnknownNetwork { class: other.to_owned() }),
    };
    Ok(Description { text: format!("{class}, {shape}"), weights: Some(weights) })
}

/// Reads the configuration of a network, and checks that the weights fit it.
fn fitting<N: Network>(folder: &Path, weights: &Tensors, device: &Device) -> Result<N::Config, Error> {
    let config: N::Config = read_config(folder)?;
    check(&N::init(&config, device)?, weights, &N::KEYS)?;
    Ok(config)
}
