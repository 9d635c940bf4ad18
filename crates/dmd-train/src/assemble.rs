//! From a configuration to the architecture of a teacher.

use dmd_clip::{HiddenActivation, TextConfig, Vocabulary};
use dmd_data::Dataset;
use dmd_model::MAX_TOKENS;
use dmd_unet::AutoencoderConfig;
use serde_json::json;

use crate::config::{TeacherConfig, TextSection};
use crate::diffusion::TeacherArchitecture;

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
            projection_dim: None,
            eos_token_id: u32::try_from(end).ok(),
            other: [
                ("architectures".to_owned(), json!(["CLIPTextModel"])),
                ("model_type".to_owned(), json!("clip_text_model")),
                ("bos_token_id".to_owned(), json!(end - 1)),
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
