use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_core::Condition;
use dmd_weights::KeyMap;

use crate::config::{SIZES, XlUNetConfig};
use crate::embedding::{TimestepEmbedding, sinusoidal};
use crate::text_unet::TOKENS;
use crate::unet::{Encoded, in_type};
use crate::{Costs, Error, Network, Sizes, UNET_KEYS, UNet2d};

/// The condition of Stable Diffusion XL's network, one row per sample.
#[derive(Debug, Clone)]
pub struct XlCondition {
    /// Features of the prompt's tokens, `[batch, tokens, cross_attention_dim]`.
    pub text: Tensor<3>,
    /// Pooled features of the whole prompt, `[batch, pooled_width]`.
    pub pooled: Tensor<2>,
    /// Original height and width, top and left of the crop, target height and width, in pixels, `[batch, 6]`.
    pub sizes: Tensor<2>,
}

impl XlCondition {
    fn map(&self, text: impl Fn(&Tensor<3>) -> Tensor<3>, row: impl Fn(&Tensor<2>) -> Tensor<2>) -> Self {
        Self { text: text(&self.text), pooled: row(&self.pooled), sizes: row(&self.sizes) }
    }
}

impl Condition for XlCondition {
    fn expand(&self, batch: usize) -> Self {
        self.map(|text| Condition::expand(text, batch), |row| Condition::expand(row, batch))
    }

    fn cat(&self, other: &Self) -> Self {
        Self {
            text: Condition::cat(&self.text, &other.text),
            pooled: Condition::cat(&self.pooled, &other.pooled),
            sizes: Condition::cat(&self.sizes, &other.sizes),
        }
    }

    fn without_autodiff(&self) -> Self {
        self.map(Condition::without_autodiff, Condition::without_autodiff)
    }
}

/// diffusers' `UNet2DConditionModel` as Stable Diffusion XL uses it: a [`UNet2d`] that also takes the pooled text
/// features and the picture's sizes.
#[derive(Module, Debug)]
pub struct XlUNet2d {
    body: UNet2d,
    add_embedding: TimestepEmbedding,
    /// Number of sinusoids that encode each size.
    sinusoids: usize,
}

impl XlUNetConfig {
    /// Makes a network with random initial parameters.
    ///
    /// # Errors
    ///
    /// As [`XlUNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<XlUNet2d, Error> {
        self.validate()?;
        let width = 4 * self.unet.block_out_channels[0];
        Ok(XlUNet2d {
            body: self.unet.init(device)?,
            add_embedding: TimestepEmbedding::new(self.projection_class_embeddings_input_dim, width, device),
            sinusoids: self.addition_time_embed_dim,
        })
    }
}

impl XlUNet2d {
    fn down_with(&self, x: Tensor<4>, t: Tensor<1>, condition: &XlCondition) -> Encoded<Tensor<3>> {
        let XlCondition { text, pooled, sizes } = condition;
        let [batch, numbers] = sizes.dims();
        assert_eq!(numbers, SIZES, "numbers about a picture's size");
        let sizes = sinusoidal(sizes.clone().reshape([batch * SIZES]), self.sinusoids);
        let sizes = sizes.reshape([batch, SIZES * self.sinusoids]);
        let told = self.add_embedding.forward(Tensor::cat(vec![pooled.clone(), sizes], 1));
        let embedding = self.body.embedding(t, None) + told;
        self.body.down(x, embedding, in_type(text.clone(), self.body.dtype()))
    }
}

impl Network for XlUNet2d {
    type Condition = XlCondition;
    type Config = XlUNetConfig;

    const KEYS: KeyMap = UNET_KEYS;
    const HALVES_ODD: bool = true;

    fn validate(config: &XlUNetConfig) -> Result<(), Error> {
        config.validate()
    }

    fn init(config: &XlUNetConfig, device: &Device) -> Result<Self, Error> {
        config.init(device)
    }

    fn sizes(config: &XlUNetConfig) -> Sizes {
        UNet2d::sizes(&config.unet)
    }

    fn with_guidance(self, scale: f64) -> Self {
        Self { body: self.body.guided_by(scale), ..self }
    }

    fn recomputing(self) -> Self {
        Self { body: self.body.recomputing_blocks(), ..self }
    }

    fn computing_in(self, dtype: FloatDType) -> Self {
        Self { body: self.body.computed_in(dtype), ..self }
    }

    fn forward(&self, x: Tensor<4>, t: Tensor<1>, condition: &XlCondition) -> Tensor<4> {
        self.body.up(self.down_with(x, t, condition))
    }

    fn costs(&self, side: [usize; 2]) -> Costs {
        let mut costs = self.body.costs_on(side, TOKENS);
        costs.down[0].parameters += dmd_weights::count(&self.add_embedding);
        costs
    }

    fn encode(&self, x: Tensor<4>, t: Tensor<1>, condition: &XlCondition) -> Tensor<4> {
        self.down_with(x, t, condition).bottleneck()
    }
}
