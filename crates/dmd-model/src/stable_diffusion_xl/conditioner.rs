//! Converts prompts to conditions with two text encoders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use dmd_clip::{ClipTextModel, ProjectedTextEncoder, ProjectedTextModel, TextEncoder, Tokenizer};
use dmd_core::Condition;
use dmd_unet::XlCondition;
use dmd_weights::Tensors;

use crate::Error;
use crate::family::{Conditioner, SizeConditions, TextFeatures};

/// Number of last layers that are skipped for the features of the tokens.
pub(super) const LEFT_OUT: usize = 1;

/// Maximum size of the kept features in bytes.
const KEPT: usize = 1 << 30;

/// Converts prompts to conditions of Stable Diffusion XL with two frozen text encoders.
#[derive(Debug, Clone)]
pub struct XlConditioner {
    pub(super) one: TextEncoder,
    pub(super) two: ProjectedTextEncoder,
    /// Width of the concatenated features of the tokens.
    pub(super) width: usize,
    /// Width of the pooled features of the whole prompt.
    pub(super) pooled: usize,
    /// Whether guidance without a negative prompt points away from zeros instead of the empty prompt.
    pub(super) zeros: bool,
    /// Height and width of the pictures that the model was trained on.
    pub(super) picture: (usize, usize),
    pub(super) device: Device,
    /// The encoders' files, without LoRA. Their mapped memory is released after each use, because the weights are not
    /// needed between prompts.
    pub(super) files: [Tensors; 2],
    /// Features by caption, on the host (see [`Conditioner::remembered`]).
    pub(super) kept: Arc<Mutex<HashMap<String, (TensorData, TensorData)>>>,
}

impl XlConditioner {
    /// The conditioner with other networks from the same files, and without kept features.
    pub(super) fn with_models(self, one: ClipTextModel, two: ProjectedTextModel) -> Self {
        let (one, two) = (self.one.with_model(one), self.two.with_model(two));
        Self { one, two, kept: Arc::default(), ..self }
    }

    /// The sizes of a picture as `count` equal rows of the condition.
    fn rows(&self, sizes: &SizeConditions, count: usize) -> Tensor<2> {
        let row = sizes.numbers();
        let values: Vec<f32> = std::iter::repeat_n(row, count).flatten().collect();
        Tensor::from_data(TensorData::new(values, [count, row.len()]), &self.device)
    }

    fn told(&self, text: Tensor<3>, pooled: Tensor<2>) -> XlCondition {
        let [count, ..] = text.dims();
        let sizes = self.rows(&SizeConditions::of_picture(self.picture), count);
        XlCondition { text, pooled, sizes }
    }

    fn encode(&self, prompts: &[&str], left_out: usize) -> Result<(Tensor<3>, Tensor<2>), Error> {
        let layers = self.one.model().layers().min(self.two.layers());
        if left_out > layers {
            let hint = format!("the text encoders have {layers} layers, and {LEFT_OUT} is always left out");
            return Err(Error::Setting { setting: format!("clip skip {}", left_out - LEFT_OUT), hint });
        }
        let words = self.one.hidden(prompts, left_out)?;
        let text = self.two.encode(prompts, left_out)?;
        let encoded = (Tensor::cat(vec![words, text.hidden], 2), text.pooled);
        self.files.iter().for_each(Tensors::release);
        Ok(encoded)
    }
}

impl Conditioner for XlConditioner {
    type Condition = XlCondition;

    const IS_TOLD_SIZES: bool = true;

    fn check(&self, prompt: &str) -> Result<(), Error> {
        self.one.tokenizer().encode(prompt)?;
        self.two.tokenizer().encode(prompt)?;
        Ok(())
    }

    fn condition(&self, prompts: &[&str]) -> Result<XlCondition, Error> {
        self.condition_skipping(prompts, 0)
    }

    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<XlCondition, Error> {
        let (text, pooled) = self.encode(prompts, LEFT_OUT + layers)?;
        Ok(self.told(text, pooled))
    }

    fn unconditional(&self) -> Result<XlCondition, Error> {
        if !self.zeros {
            return self.condition(&[""]);
        }
        let tokens = self.one.tokenizer().max_tokens();
        let text = Tensor::zeros([1, tokens, self.width], &self.device);
        Ok(self.told(text, Tensor::zeros([1, self.pooled], &self.device)))
    }

    fn sized(&self, condition: XlCondition, sizes: &SizeConditions) -> XlCondition {
        let [count, ..] = condition.text.dims();
        XlCondition { sizes: self.rows(sizes, count), ..condition }
    }

    fn remembered(&self, captions: &[&str]) -> Result<XlCondition, Error> {
        let of = |caption: &&str| -> Result<XlCondition, Error> {
            let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((text, pooled)) = kept().get(*caption) {
                let text = Tensor::from_data(text.clone(), &self.device);
                return Ok(self.told(text, Tensor::from_data(pooled.clone(), &self.device)));
            }
            let (text, pooled) = self.encode(&[*caption], LEFT_OUT)?;
            let data = (text.clone().into_data(), pooled.clone().into_data());
            let bytes = (data.0.num_elements() + data.1.num_elements()) * size_of::<f32>();
            let mut kept = kept();
            if (kept.len() + 1) * bytes <= KEPT {
                kept.insert((*caption).to_owned(), data);
            }
            Ok(self.told(text, pooled))
        };
        let rows = captions.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let joined = rows.into_iter().reduce(|all, row| all.cat(&row));
        joined.map_or_else(|| self.condition(captions), Ok)
    }

    fn text_features(&self, prompts: &[&str]) -> Result<TextFeatures, Error> {
        let (words, pooled) = self.encode(prompts, LEFT_OUT)?;
        Ok(TextFeatures { words, pooled: Some(pooled) })
    }

    fn features(&self, features: TextFeatures) -> Result<XlCondition, Error> {
        let [rows, tokens, width] = features.words.dims();
        let most = self.one.tokenizer().max_tokens();
        let pooled = features.pooled.filter(|pooled| pooled.dims() == [rows, self.pooled]);
        match pooled {
            Some(pooled) if width == self.width && (1..=most).contains(&tokens) => {
                Ok(self.told(features.words, pooled))
            }
            pooled => Err(Error::Setting {
                setting: match pooled {
                    Some(_) => format!("features of {tokens} tokens, {width} wide"),
                    None => "features without fitting ones of the whole prompt".to_owned(),
                },
                hint: format!(
                    "it takes 1 to {most} tokens, {} wide, and {} numbers of the whole prompt",
                    self.width, self.pooled
                ),
            }),
        }
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.one.tokenizer().max_tokens())
    }

    fn is_finite(condition: &XlCondition) -> bool {
        // A sum of absolute values is finite only if every value is finite.
        let sum = condition.text.clone().abs().sum() + condition.pooled.clone().abs().sum();
        sum.into_scalar::<f32>().is_finite()
    }

    fn tokens(&self, caption: &str) -> Result<Option<(usize, usize)>, Error> {
        let count = |tokenizer: &Tokenizer| tokenizer.tokens(caption).map(|tokens| tokens.len());
        let found = count(self.one.tokenizer())?.max(count(self.two.tokenizer())?);
        Ok(Some((found, self.one.tokenizer().max_tokens())))
    }
}
