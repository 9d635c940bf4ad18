use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use dmd_clip::TextEncoder;

use crate::Error;
use crate::family::Conditioner;

/// Most bytes of features that are kept.
const KEPT: usize = 1 << 30;

/// Prompts to text features by one text encoder, frozen.
#[derive(Debug, Clone)]
pub struct TextConditioner {
    encoder: TextEncoder,
    width: usize,
    device: Device,
    /// Features by caption, see [`Conditioner::remembered`].
    kept: Arc<Mutex<HashMap<String, TensorData>>>,
}

impl TextConditioner {
    /// The conditioner of a text encoder whose features are `width` wide.
    pub fn new(encoder: TextEncoder, width: usize, device: &Device) -> Self {
        Self { encoder, width, device: device.clone(), kept: Arc::default() }
    }

    /// The text encoder.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    fn of(&self, caption: &str) -> Result<TensorData, Error> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = kept().get(caption) {
            return Ok(features.clone());
        }
        let features = self.encoder.encode(&[caption])?.into_data();
        let bytes = features.num_elements() * size_of::<f32>();
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
        let row = |caption: &&str| Ok(Tensor::from_data(self.of(caption)?, &self.device));
        Ok(Tensor::cat(captions.iter().map(row).collect::<Result<_, Error>>()?, 0))
    }

    fn features(&self, features: Tensor<3>) -> Result<Tensor<3>, Error> {
        let [_, tokens, width] = features.dims();
        let most = self.encoder.tokenizer().max_tokens();
        if width == self.width && (1..=most).contains(&tokens) {
            return Ok(features);
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
        // A sum is finite only if every term is.
        condition.clone().abs().sum().into_scalar::<f32>().is_finite()
    }

    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let tokenizer = self.encoder.tokenizer();
        Ok(Some((tokenizer.tokens(caption)?.len(), tokenizer.max_tokens())))
    }
}
