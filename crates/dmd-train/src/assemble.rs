//! From a configuration to networks, and from networks to a diffusers folder.

use std::path::Path;

use dmd_clip::{CLIP_KEYS, HiddenActivation, TextConfig, Vocabulary};
use dmd_data::Dataset;
use dmd_scheduler::SchedulerConfig;
use dmd_unet::{AUTOENCODER_KEYS, Autoencoder, AutoencoderConfig, Network};
use dmd_weights::{ModelIndex, Precision, WholeFolder, write_json};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Error;
use crate::config::{TeacherConfig, TextSection};
use crate::diffusion::{Teacher, TeacherArchitecture};

/// Tokens per prompt, start and end included: CLIP's.
const MAX_TOKENS: usize = 77;

/// The vocabulary of a data set: every word of its captions as one token.
pub fn vocabulary(dataset: &dyn Dataset) -> Vocabulary {
    Vocabulary::for_words(dataset.vocabulary().iter().map(String::as_str))
}

impl TextSection {
    fn architecture(&self, vocabulary: &Vocabulary) -> TextConfig {
        let end = vocabulary.len() - 1;
        TextConfig {
            vocab_size: vocabulary.len(),
            hidden_size: self.width,
            intermediate_size: 4 * self.width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            max_position_embeddings: MAX_TOKENS,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            other: [
                ("architectures".to_owned(), json!(["CLIPTextModel"])),
                ("model_type".to_owned(), json!("clip_text_model")),
                ("bos_token_id".to_owned(), json!(end - 1)),
                ("eos_token_id".to_owned(), json!(end)),
                ("pad_token_id".to_owned(), json!(end)),
            ]
            .into(),
        }
    }
}

impl TeacherArchitecture {
    /// Text encoder and UNet of a run, for the latents of its autoencoder.
    pub fn new(config: &TeacherConfig, vocabulary: &Vocabulary, autoencoder: &AutoencoderConfig) -> Self {
        let sample_size = autoencoder.sample_size / autoencoder.downsampling();
        Self {
            text: config.text.architecture(vocabulary),
            unet: config.unet.architecture(sample_size, autoencoder.latent_channels, config.text.width),
        }
    }
}

/// Writes the `tokenizer` folder.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_tokenizer(model: &Path, vocabulary: &Vocabulary) -> Result<(), Error> {
    Ok(vocabulary.save(&model.join("tokenizer"), MAX_TOKENS)?)
}

/// Writes the `vae` folder, whole or not at all.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_autoencoder(
    model: &Path,
    network: &Autoencoder,
    config: &AutoencoderConfig,
    precision: Precision,
) -> Result<(), Error> {
    WholeFolder::new(model.join("vae")).replace(|folder| {
        write_json(&folder.join("config.json"), config)?;
        let path = folder.join("diffusion_pytorch_model.safetensors");
        Ok(dmd_weights::save(network, &path, &AUTOENCODER_KEYS, precision)?)
    })
}

/// Writes `text_encoder`, `unet`, `scheduler` and `model_index.json`: with tokenizer and
/// autoencoder, a folder that diffusers' `StableDiffusionPipeline` opens.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_teacher(
    model: &Path,
    teacher: &Teacher,
    architecture: &TeacherArchitecture,
    precision: Precision,
) -> Result<(), Error> {
    let text = model.join("text_encoder");
    write_json(&text.join("config.json"), &architecture.text)?;
    dmd_weights::save(&teacher.text, &text.join("model.safetensors"), &CLIP_KEYS, precision)?;
    teacher.denoiser.network.save(&architecture.unet, &model.join("unet"), precision)?;
    let scheduler = model.join("scheduler").join("scheduler_config.json");
    write_json(&scheduler, &SchedulerConfig::stable_diffusion())?;
    let component = |library: &str, class: &str| json!([library, class]);
    let nothing = json!([null, null]);
    let index = ModelIndex {
        class_name: "StableDiffusionPipeline".to_owned(),
        entries: [
            ("feature_extractor", nothing.clone()),
            ("requires_safety_checker", json!(false)),
            ("safety_checker", nothing),
            ("scheduler", component("diffusers", "DDIMScheduler")),
            ("text_encoder", component("transformers", "CLIPTextModel")),
            ("tokenizer", component("transformers", "CLIPTokenizer")),
            ("unet", component("diffusers", "UNet2DConditionModel")),
            ("vae", component("diffusers", "AutoencoderKL")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
    };
    Ok(write_json(&model.join("model_index.json"), &index)?)
}

/// `unet_one_step/one_step.json`: how a one-step generator is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneStepSettings {
    /// The timestep the network is called at.
    pub timestep: usize,
    /// Standard deviation of its input.
    pub noise_scale: f64,
    /// Guidance that its teacher was distilled with: what to draw with where both are compared.
    pub guidance_scale: f64,
    /// The timesteps of a generator of several steps, descending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timesteps: Option<Vec<usize>>,
}
