use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, FloatDType, Int, Tensor};

use dmd_kernels::{attention, gelu, layer_norm, linear};

use crate::config::{HiddenActivation, TextConfig};
use crate::{CLIP_KEYS, Error};

#[derive(Module, Debug)]
struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
}

impl SelfAttention {
    /// Attention over `x: [batch, tokens, width]`; a causal one sees earlier tokens only.
    fn forward(&self, x: Tensor<3>, is_causal: bool) -> Tensor<3> {
        let project = |layer: &Linear| linear(layer, x.clone());
        let (q, k, v) = (project(&self.q_proj), project(&self.k_proj), project(&self.v_proj));
        linear(&self.out_proj, attention(q, k, v, self.num_heads, is_causal))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl Layer {
    fn forward(&self, x: Tensor<3>, is_causal: bool, quick_gelu: bool) -> Tensor<3> {
        let x = self.self_attn.forward(layer_norm(&self.layer_norm1, x.clone()), is_causal) + x;
        let h = linear(&self.mlp.fc1, layer_norm(&self.layer_norm2, x.clone()));
        let h = match quick_gelu {
            true => h.clone() * sigmoid(h * 1.702),
            false => gelu(h),
        };
        linear(&self.mlp.fc2, h) + x
    }
}

/// Transformer layers, of text and of pictures.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    layers: Vec<Layer>,
}

/// Sizes of an [`Encoder`].
pub(crate) struct EncoderConfig {
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) epsilon: f64,
}

impl EncoderConfig {
    pub(crate) fn init(&self, device: &Device) -> Encoder {
        let width = self.width;
        let project = |input, output| LinearConfig::new(input, output).init(device);
        let norm = || LayerNormConfig::new(width).with_epsilon(self.epsilon).init(device);
        let layer = |_| Layer {
            self_attn: SelfAttention {
                q_proj: project(width, width),
                k_proj: project(width, width),
                v_proj: project(width, width),
                out_proj: project(width, width),
                num_heads: self.heads,
            },
            layer_norm1: norm(),
            mlp: Mlp { fc1: project(width, self.inner), fc2: project(self.inner, width) },
            layer_norm2: norm(),
        };
        Encoder { layers: (0..self.layers).map(layer).collect() }
    }
}

impl Encoder {
    /// Some of the layers, one after another.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        layers: Range<usize>,
        is_causal: bool,
        quick_gelu: bool,
    ) -> Tensor<3> {
        self.layers[layers].iter().fold(x, |x, layer| layer.forward(x, is_causal, quick_gelu))
    }
}

/// transformers' `CLIPTextModel`: a causal transformer over token and position embeddings. It computes in single
/// precision, also where its parameters are stored in half.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    quick_gelu: bool,
}

impl TextConfig {
    /// A network with fresh random parameters.
    ///
    /// # Errors
    ///
    /// As [`TextConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<ClipTextModel, Error> {
        self.validate()?;
        let width = self.hidden_size;
        let encoder = EncoderConfig {
            width,
            inner: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            epsilon: self.layer_norm_eps,
        };
        // CLIP's initial deviation of embeddings.
        let embedding = |count| {
            EmbeddingConfig::new(count, width)
                .with_initializer(Initializer::Normal { mean: 0.0, std: 0.02 })
                .init(device)
        };
        Ok(ClipTextModel {
            embeddings: Embeddings {
                token_embedding: embedding(self.vocab_size),
                position_embedding: embedding(self.max_position_embeddings),
            },
            encoder: encoder.init(device),
            final_layer_norm: LayerNormConfig::new(width).with_epsilon(self.layer_norm_eps).init(device),
            quick_gelu: self.hidden_act == HiddenActivation::QuickGelu,
        })
    }
}

impl ClipTextModel {
    /// Reads `config.json` and the weights of a diffusers `text_encoder` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, TextConfig), Error> {
        let config = TextConfig::from_dir(folder)?;
        let network = config.init(device)?;
        let path = dmd_weights::weight_file(folder, &["model"])?;
        let network = dmd_weights::load(network, &dmd_weights::read(&path)?, &CLIP_KEYS)?;
        Ok((network, config))
    }

    /// This network with vectors for new tokens, `[count, width]`, which get the numbers from `first` on: those that
    /// [`Tokenizer::with_word`](crate::Tokenizer::with_word) gives. Rows of the token embedding from there on, which belonged
    /// to no token, are left out, as in diffusers.
    ///
    /// # Panics
    ///
    /// If there are fewer than `first` rows, or of another width.
    pub fn with_rows(mut self, first: usize, rows: Tensor<2>) -> Self {
        let embedding = &mut self.embeddings.token_embedding;
        embedding.weight = embedding.weight.clone().map(|weight| {
            // New rows are not rounded to the type of the file's.
            Tensor::cat(vec![weight.narrow(0, 0, first).cast(FloatDType::F32), rows.clone()], 0)
        });
        self
    }

    /// The last hidden state.
    ///
    /// # Shapes
    ///
    /// `ids`: `[batch, tokens]`, at most `max_position_embeddings` tokens; the result is
    /// `[batch, tokens, hidden_size]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.forward_skipping(ids, 0)
    }

    /// Number of transformer layers.
    pub fn layers(&self) -> usize {
        self.encoder.layers.len()
    }

    /// The hidden state before the last `skip` layers, normalised like the last one: "clip skip".
    ///
    /// # Panics
    ///
    /// If there are not more than `skip` layers.
    pub fn forward_skipping(&self, ids: Tensor<2, Int>, skip: usize) -> Tensor<3> {
        let count = self.layers();
        assert!(skip < count, "{count} layers, of which {skip} cannot be skipped");
        let x = self.encoder.forward(self.embed(ids), 0..count - skip, true, self.quick_gelu);
        layer_norm(&self.final_layer_norm, x)
    }

    /// The hidden state before the last `left_out` layers, not normalised; with one layer left out, what Stable
    /// Diffusion XL attends to.
    ///
    /// # Panics
    ///
    /// If there are not as many layers.
    pub fn hidden(&self, ids: Tensor<2, Int>, left_out: usize) -> Tensor<3> {
        let count = self.layers();
        assert!(left_out <= count, "{count} layers, of which {left_out} cannot be left out");
        self.encoder.forward(self.embed(ids), 0..count - left_out, true, self.quick_gelu)
    }

    /// The last hidden state, normalised, of the state that [`Self::hidden`] gives.
    pub(crate) fn last(&self, hidden: Tensor<3>, left_out: usize) -> Tensor<3> {
        let count = self.layers();
        let x = self.encoder.forward(hidden, count - left_out..count, true, self.quick_gelu);
        layer_norm(&self.final_layer_norm, x)
    }

    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, tokens] = ids.dims();
        let positions = self.embeddings.position_embedding.weight.val().narrow(0, 0, tokens);
        let words = self.embeddings.token_embedding.forward(ids);
        words.cast(FloatDType::F32) + positions.cast(FloatDType::F32).unsqueeze()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// A token that gets the vector of another one is that one, and the rows behind the vocabulary are left out.
    #[test]
    fn a_new_token_has_its_row() {
        let device = Device::flex();
        let config: TextConfig = serde_json::from_value(json!({
            "vocab_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 4,
        }))
        .unwrap();
        let network = config.init(&device).unwrap();
        let row = network.embeddings.token_embedding.weight.val().narrow(0, 3, 1);
        let taught = network.clone().with_rows(6, row);
        assert_eq!(taught.embeddings.token_embedding.weight.dims(), [7, 16]);
        let of = |network: &ClipTextModel, ids: [i32; 3]| {
            network.forward(Tensor::from_ints([ids], &device)).into_data()
        };
        assert_eq!(of(&taught, [5, 6, 0]), of(&network, [5, 3, 0]));
        assert_eq!(of(&taught, [5, 3, 0]), of(&network, [5, 3, 0]));
    }
}
