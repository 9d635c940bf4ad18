use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use dmd_kernels::linear_rows;
use dmd_weights::KeyMap;

use crate::encoder::{ids_tensor, tokens_of};
use crate::{ClipTextModel, Error, TextConfig, Tokenizer};

/// transformers' `CLIPTextModelWithProjection`: a text transformer and features of the whole prompt, as Stable Diffusion
/// XL's second text encoder gives them.
#[derive(Module, Debug)]
pub struct ProjectedTextModel {
    text_model: ClipTextModel,
    text_projection: Linear,
}

/// What a [`ProjectedTextEncoder`] makes of prompts.
#[derive(Debug, Clone)]
pub struct ProjectedText {
    /// The hidden state before the layers that are left out, not normalised, `[batch, tokens, hidden_size]`.
    pub hidden: Tensor<3>,
    /// The normalised last state at each prompt's end, projected, `[batch, projection_dim]`.
    pub pooled: Tensor<2>,
}

/// `eos_token_id` of OpenAI's files, which is not the end token's number.
const HISTORIC_END: u32 = 2;

impl ProjectedTextModel {
    /// A network with fresh random parameters.
    ///
    /// # Errors
    ///
    /// As [`TextConfig::validate`]; [`Error::Unsupported`] without a `projection_dim`.
    pub fn init(config: &TextConfig, device: &Device) -> Result<Self, Error> {
        let text_model = config.init(device)?;
        let Some(width) = config.projection_dim else {
            let hint = "an encoder with projected features needs its width".to_owned();
            return Err(Error::Unsupported { key: "projection_dim", value: "absent".to_owned(), hint });
        };
        let projection = LinearConfig::new(config.hidden_size, width).with_bias(false);
        Ok(Self { text_model, text_projection: projection.init(device) })
    }

    /// Reads the weights of a diffusers `text_encoder_2` folder whose configuration was read.
    ///
    /// # Errors
    ///
    /// When the weights are missing, broken or do not fit.
    pub fn from_dir(folder: &Path, config: &TextConfig, device: &Device) -> Result<Self, Error> {
        let path = dmd_weights::weight_file(folder, &["model"])?;
        let network = Self::init(config, device)?;
        Ok(dmd_weights::load(network, &dmd_weights::read(&path)?, &KeyMap::default())?)
    }

    /// As [`ClipTextModel::with_rows`].
    ///
    /// # Panics
    ///
    /// As [`ClipTextModel::with_rows`].
    pub fn with_rows(self, first: usize, rows: Tensor<2>) -> Self {
        Self { text_model: self.text_model.with_rows(first, rows), ..self }
    }

    /// `ids`: `[batch, tokens]`; `ends`: the place of each prompt's end token.
    ///
    /// # Panics
    ///
    /// If there are not as many layers as are left out.
    fn forward(&self, ids: Tensor<2, Int>, ends: &[usize], left_out: usize) -> ProjectedText {
        let model = &self.text_model;
        let hidden = model.hidden(ids, left_out);
        let last = model.last(hidden.clone(), left_out);
        let [_, _, width] = last.dims();
        let row = |(row, end): (usize, &usize)| {
            last.clone().narrow(0, row, 1).narrow(1, *end, 1).reshape([1, width])
        };
        let rows = Tensor::cat(ends.iter().enumerate().map(row).collect(), 0);
        ProjectedText { hidden, pooled: linear_rows(&self.text_projection, rows) }
    }
}

/// Tokenizer and [`ProjectedTextModel`] together.
#[derive(Debug, Clone)]
pub struct ProjectedTextEncoder {
    tokenizer: Tokenizer,
    model: ProjectedTextModel,
    end: Option<u32>,
    device: Device,
}

impl ProjectedTextEncoder {
    /// Joins a tokenizer and a model of a configuration that lives on `device`.
    pub fn new(
        tokenizer: Tokenizer,
        model: ProjectedTextModel,
        config: &TextConfig,
        device: &Device,
    ) -> Self {
        let end = config.eos_token_id.filter(|id| *id != HISTORIC_END);
        Self { tokenizer, model, end, device: device.clone() }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The network.
    pub fn model(&self) -> &ProjectedTextModel {
        &self.model
    }

    /// The same encoder with another network.
    pub fn with_model(self, model: ProjectedTextModel) -> Self {
        Self { model, ..self }
    }

    /// Number of transformer layers.
    pub fn layers(&self) -> usize {
        self.model.text_model.layers()
    }

    /// The prompts' features, without the last `left_out` layers for the words; the whole prompt's come from the last
    /// layer.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    ///
    /// # Panics
    ///
    /// If there are not as many layers as are left out.
    pub fn encode(&self, prompts: &[&str], left_out: usize) -> Result<ProjectedText, Error> {
        Ok(self.encode_tokens(&tokens_of(&self.tokenizer, prompts)?, left_out))
    }

    /// [`Self::encode`] of tokens, all prompts of one length.
    ///
    /// # Panics
    ///
    /// If there are not as many layers as are left out.
    pub fn encode_tokens(&self, tokens: &[Vec<u32>], left_out: usize) -> ProjectedText {
        let ends: Vec<usize> = tokens.iter().map(|tokens| end_of(tokens, self.end)).collect();
        self.model.forward(ids_tensor(tokens, &self.device), &ends, left_out)
    }
}

/// The place of a prompt's end: the first token of that number, or of the largest number where none is known. As in
/// transformers, a prompt without one ends at its first place.
fn end_of(tokens: &[u32], end: Option<u32>) -> usize {
    let end = end.or_else(|| tokens.iter().max().copied());
    tokens.iter().position(|token| Some(*token) == end).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn a_prompt_ends_at_its_first_end_token() {
        assert_eq!(end_of(&[7, 3, 9, 9, 0], None), 2);
        assert_eq!(end_of(&[7, 3, 9, 9, 0], Some(3)), 1);
        assert_eq!(end_of(&[7, 3, 9], Some(5)), 0);
    }
}
