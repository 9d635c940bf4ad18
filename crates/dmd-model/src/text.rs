use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use dmd_clip::{ClipTextModel, TextEncoder};

use crate::Error;
use crate::family::{Conditioner, TextFeatures};

/// Maximum size of the kept features in bytes.
const KEPT: usize = 1 << 30;

/// Converts prompts to text features with one frozen text encoder.
#[derive(Debug, Clone)]
pub struct TextConditioner {
    encoder: TextEncoder,
    width: usize,
    /// Features by caption, on the encoder's device (see [`Conditioner::remembered`]).
    kept: Arc<Mutex<HashMap<String, Tensor<3>>>>,
}

impl TextConditioner {
    /// Makes a conditioner from a text encoder whose features have the width `width`.
    pub fn new(encoder: TextEncoder, width: usize) -> Self {
        Self { encoder, width, kept: Arc::default() }
    }

    /// The text encoder.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    /// The conditioner with another network in its encoder, and without kept features.
    pub(crate) fn with_model(self, model: ClipTextModel) -> Self {
        Self::new(self.encoder.with_model(model), self.width)
    }

    fn of(&self, caption: &str) -> Result<Tensor<3>, Error> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = kept().get(caption) {
            return Ok(features.clone());
        }
        let features = self.encoder.encode(&[caption])?.detach();
        let bytes = features.shape().num_elements() * size_of::<f32>();
        let mut kept = kept();
        if (kept.len() + 1) * bytes <= KEPT {
            kept.insert(caption.to_owned(), features.clone());
        }
        Ok(features)
    }
}

impl Conditioner for TextConditioner {
    type Condition = Tensor<3>;

    fn check(&self, prompt: &str) -> Result<(), Error> {
        self.encoder.tokenizer().encode(prompt)?;
        Ok(())
    }

    fn condition(&self, prompts: &[&str]) -> Result<Tensor<3>, Error> {
        Ok(self.encoder.encode(prompts)?)
    }

    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<Tensor<3>, Error> {
        Ok(self.encoder.encode_skipping(prompts, layers)?)
    }

    fn remembered(&self, captions: &[&str]) -> Result<Tensor<3>, Error> {
        let rows = captions.iter().map(|caption| self.of(caption));
        Ok(Tensor::cat(rows.collect::<Result<_, _>>()?, 0))
    }

    fn text_features(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        Ok(self.condition(prompts)?.into())
    }

    fn features(&self, features: TextFeatures) -> Result<Tensor<3>, Error> {
        let [_, tokens, width] = features.words.dims();
        let most = self.encoder.tokenizer().max_tokens();
        if features.pooled.is_some() {
            return Err(Error::Setting {
                setting: "features of the whole prompt".to_owned(),
                hint: "this model takes the words' alone".to_owned(),
            });
        }
        if width == self.width && (1..=most).contains(&tokens) {
            return Ok(features.words);
        }
        Err(Error::Setting {
            setting: format!("features of {tokens} tokens, {width} wide"),
            hint: format!("it takes 1 to {most} tokens, {} wide", self.width),
        })
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.encoder.tokenizer().max_tokens())
    }

    fn is_finite(condition: &Tensor<3>) -> bool {
        // A sum of absolute values is finite only if every value is finite.
        condition.clone().abs().sum().into_scalar::<f32>().is_finite()
    }

    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let tokenizer = self.encoder.tokenizer();
        Ok(Some((tokenizer.tokens(caption)?.len(), tokenizer.max_tokens())))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use burn::tensor::Device;
    use dmd_clip::{TextConfig, Tokenizer, Vocabulary};
    use serde_json::json;

    use super::*;

    fn bits(features: Tensor<3>) -> Vec<u32> {
        features.into_data().iter::<f32>().map(f32::to_bits).collect()
    }

    /// The features of a caption are bit for bit those of the caption encoded alone, at the first call and at later
    /// ones.
    #[test]
    fn remembered_features_are_those_of_the_caption_alone() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = Vocabulary::for_words(["a", "red", "blue", "circle"]);
        vocabulary.save(folder.path(), 12).unwrap();
        let config: TextConfig = serde_json::from_value(json!({
            "vocab_size": vocabulary.len(), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 12,
        }))
        .unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path(), 12).unwrap();
        let encoder = TextEncoder::new(tokenizer, config.init(&device).unwrap(), &device);
        let conditioner = TextConditioner::new(encoder, 16);
        let captions = ["a red circle", "a blue circle", "a red circle", ""];
        let alone: Vec<u32> =
            captions.iter().flat_map(|caption| bits(conditioner.condition(&[caption]).unwrap())).collect();
        for _ in 0..2 {
            assert_eq!(bits(conditioner.remembered(&captions).unwrap()), alone);
        }
        assert_eq!(conditioner.kept.lock().unwrap().len(), 3);
    }
}
