use std::collections::BTreeMap;
use std::path::Path;

use dmd_weights::read_config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// The feed-forward activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenActivation {
    /// `x · sigmoid(1.702 x)` (OpenAI's CLIP, SD 1.x).
    #[default]
    QuickGelu,
    /// The exact, erf-based GELU (OpenCLIP, SD 2.x).
    Gelu,
}

/// `text_encoder/config.json`: the options of transformers' `CLIPTextModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the features.
    pub hidden_size: usize,
    /// Width inside the feed-forward.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Tokens per prompt, start and end included.
    pub max_position_embeddings: usize,
    /// The feed-forward activation.
    #[serde(default)]
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer normalisations.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Width of the projected features of a whole prompt, for an encoder that has them
    /// ([`ProjectedTextModel`](crate::ProjectedTextModel)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection_dim: Option<usize>,
    /// Number of the end token. 2 is a historic slip in OpenAI's files: the end is then the largest number of a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<u32>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn layer_norm_eps() -> f64 {
    1e-5
}

/// transformers' name of the kind of model that is read here.
const MODEL_TYPE: &str = "clip_text_model";

/// Refuses what a configuration's `model_type` says unless it is CLIP's text model, or nothing.
fn check_model_type(config: &BTreeMap<String, Value>) -> Result<(), Error> {
    match config.get("model_type") {
        Some(kind) if !kind.is_null() && kind != MODEL_TYPE => Err(Error::Unsupported {
            key: "model_type",
            value: kind.to_string(),
            hint: format!("only CLIP's text model is, {MODEL_TYPE:?}"),
        }),
        _ => Ok(()),
    }
}

impl TextConfig {
    /// Reads `config.json` of a `text_encoder` folder.
    ///
    /// # Errors
    ///
    /// When the file is missing or damaged; [`Error::Unsupported`] for another kind of text encoder, which may have
    /// none of the options above.
    pub fn from_dir(folder: &Path) -> Result<Self, Error> {
        check_model_type(&read_config(folder)?)?;
        Ok(read_config(folder)?)
    }

    /// Checks that this is a CLIP text model and that the sizes fit together.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the option that does not.
    pub fn validate(&self) -> Result<(), Error> {
        check_model_type(&self.other)?;
        let heads = self.num_attention_heads;
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            return Err(Error::Unsupported {
                key: "num_attention_heads",
                value: heads.to_string(),
                hint: format!("it must divide hidden_size = {}", self.hidden_size),
            });
        }
        let sizes = [
            ("vocab_size", self.vocab_size, 10_000_000),
            ("hidden_size", self.hidden_size, 65_536),
            ("intermediate_size", self.intermediate_size, 262_144),
            ("num_hidden_layers", self.num_hidden_layers, 512),
            ("max_position_embeddings", self.max_position_embeddings, 65_536),
            ("projection_dim", self.projection_dim.unwrap_or(1), 65_536),
        ];
        // What a file says is not believed before its tensors are seen.
        for (key, value, max) in sizes {
            if value == 0 || value > max {
                let hint = format!("it is between 1 and {max}");
                return Err(Error::Unsupported { key, value: value.to_string(), hint });
            }
        }
        if self.max_position_embeddings < 3 {
            return Err(Error::Unsupported {
                key: "max_position_embeddings",
                value: self.max_position_embeddings.to_string(),
                hint: "start, a word and the end need 3".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// Another kind of text encoder is named, whether it has CLIP's options or not.
    #[test]
    fn other_text_encoders_are_refused() {
        let mut config = json!({
            "vocab_size": 512, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 77,
        });
        let check = |config: &Value| serde_json::from_value::<TextConfig>(config.clone()).unwrap().validate();
        check(&config).unwrap();
        config["model_type"] = json!(MODEL_TYPE);
        check(&config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let read = |config: &Value| {
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            TextConfig::from_dir(folder.path())
        };
        read(&config).unwrap();
        config["model_type"] = json!("xlm-roberta");
        let said = [check(&config).unwrap_err(), read(&config).unwrap_err()].map(|error| error.to_string());
        let expected = "text encoder configuration: model_type = \"xlm-roberta\" is not supported; only CLIP's text \
                        model is, \"clip_text_model\"";
        assert_eq!(said, [expected, expected]);
        let t5 = json!({ "model_type": "t5", "d_model": 4096 });
        assert!(read(&t5).unwrap_err().to_string().contains("\"t5\""));
    }
}
