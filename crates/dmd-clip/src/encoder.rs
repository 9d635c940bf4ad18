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

    /// The prompts' tokens, `[batch, max_tokens]`.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn ids(&self, prompts: &[&str]) -> Result<Tensor<2, Int>, Error> {
        let mut ids = Vec::new();
        for prompt in prompts {
            ids.extend(self.tokenizer.encode(prompt)?.into_iter().map(|id| id as i32));
        }
        let shape = [prompts.len(), self.tokenizer.max_tokens()];
        Ok(Tensor::from_data(TensorData::new(ids, shape), &self.device))
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
