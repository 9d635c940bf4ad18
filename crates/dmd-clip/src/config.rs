use std::collections::BTreeMap;

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

impl TextConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] naming the option that does not.
    pub fn validate(&self) -> Result<(), Error> {
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
