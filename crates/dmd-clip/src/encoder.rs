use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{ClipTextModel, Error, Tokenizer};

/// Tokenizer and text transformer together: prompts to features.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    model: ClipTextModel,
    device: Device,
}

impl TextEncoder {
    /// Joins a tokenizer and a model that lives on `device`.
    pub fn new(tokenizer: Tokenizer, model: ClipTextModel, device: &Device) -> Self {
        Self { tokenizer, model, device: device.clone() }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The network.
    pub fn model(&self) -> &ClipTextModel {
        &self.model
    }

    /// The same encoder with another network.
    pub fn with_model(self, model: ClipTextModel) -> Self {
        Self { model, ..self }
    }

    /// The prompts' tokens, `[batch, max_tokens]`.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn ids(&self, prompts: &[&str]) -> Result<Tensor<2, Int>, Error> {
        Ok(ids_tensor(&tokens_of(&self.tokenizer, prompts)?, &self.device))
    }

    /// The prompts' features before the last `left_out` layers, not normalised (see [`ClipTextModel::hidden`]).
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    ///
    /// # Panics
    ///
    /// If there are not as many layers.
    pub fn hidden(&self, prompts: &[&str], left_out: usize) -> Result<Tensor<3>, Error> {
        Ok(self.model.hidden(self.ids(prompts)?, left_out))
    }

    /// The prompts' features, `[batch, max_tokens, width]`.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, prompts: &[&str]) -> Result<Tensor<3>, Error> {
        Ok(self.model.forward(self.ids(prompts)?))
    }

    /// [`Self::encode`] without the last `skip` layers (see [`ClipTextModel::forward_skipping`]).
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`]; [`Error::Unsupported`] when there are not more layers.
    pub fn encode_skipping(&self, prompts: &[&str], skip: usize) -> Result<Tensor<3>, Error> {
        let layers = self.model.layers();
        if skip >= layers {
            let hint = format!("this text encoder has {layers} layers");
            return Err(Error::Unsupported { key: "clip skip", value: skip.to_string(), hint });
        }
        Ok(self.model.forward_skipping(self.ids(prompts)?, skip))
    }
}

/// The tokens of prompts, padded to one length.
pub(crate) fn tokens_of(tokenizer: &Tokenizer, prompts: &[&str]) -> Result<Vec<Vec<u32>>, Error> {
    prompts.iter().map(|prompt| tokenizer.encode(prompt)).collect()
}

/// Tokens of one length as a tensor `[prompts, tokens]`.
pub fn ids_tensor(tokens: &[Vec<u32>], device: &Device) -> Tensor<2, Int> {
    let length = tokens.first().map_or(0, Vec::len);
    let ids: Vec<i32> = tokens.iter().flatten().map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [tokens.len(), length]), device)
}
