use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use dmd_kernels::{convolution, layer_norm, linear};
use dmd_weights::KeyMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{HiddenActivation, TextConfig};
use crate::model::{ClipTextModel, Encoder, EncoderConfig};
use crate::{Error, Tokenizer};

/// The picture half of CLIP's `config.json`: `vision_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of the features.
    pub hidden_size: usize,
    /// Width inside the feed-forward.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Height and width of a picture.
    pub image_size: usize,
    /// Height and width of a patch, which is one token.
    pub patch_size: usize,
    /// The feed-forward activation.
    #[serde(default)]
    pub hidden_act: HiddenActivation,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// `config.json` of transformers' `CLIPModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// The text half.
    pub text_config: TextConfig,
    /// The picture half.
    pub vision_config: VisionConfig,
    /// Width of the space both are projected into.
    pub projection_dim: usize,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

#[derive(Module, Debug)]
struct PictureEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

/// transformers' `CLIPVisionModel`: a transformer over patches and one token of its own.
#[derive(Module, Debug)]
struct VisionModel {
    embeddings: PictureEmbeddings,
    /// The checkpoints' spelling.
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    quick_gelu: bool,
    layers: usize,
}

/// transformers' `CLIPModel`: pictures and texts in one space, for the CLIP score.
#[derive(Module, Debug)]
pub struct ClipModel {
    text_model: ClipTextModel,
    vision_model: VisionModel,
    text_projection: Linear,
    visual_projection: Linear,
}

/// CLIP's mean of red, green and blue, of pictures in [0, 1].
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their deviations.
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl VisionConfig {
    fn validate(&self) -> Result<(), Error> {
        let refuse =
            |key, value: usize, hint: String| Err(Error::Unsupported { key, value: value.to_string(), hint });
        for (key, value, max) in [
            ("vision_config.hidden_size", self.hidden_size, 65_536),
            ("vision_config.intermediate_size", self.intermediate_size, 262_144),
            ("vision_config.num_hidden_layers", self.num_hidden_layers, 512),
            ("vision_config.image_size", self.image_size, 4096),
            ("vision_config.patch_size", self.patch_size, 4096),
        ] {
            if value == 0 || value > max {
                return refuse(key, value, format!("it is between 1 and {max}"));
            }
        }
        let heads = self.num_attention_heads;
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) {
            let hint = format!("it must divide hidden_size = {}", self.hidden_size);
            return refuse("vision_config.num_attention_heads", heads, hint);
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            let hint = format!("it must divide image_size = {}", self.image_size);
            return refuse("vision_config.patch_size", self.patch_size, hint);
        }
        Ok(())
    }

    fn init(&self, device: &Device) -> Result<VisionModel, Error> {
        self.validate()?;
        let (width, patch) = (self.hidden_size, self.patch_size);
        let tokens = (self.image_size / patch).pow(2) + 1;
        let norm = || LayerNormConfig::new(width).with_epsilon(1e-5).init(device);
        let encoder = EncoderConfig {
            width,
            inner: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            epsilon: 1e-5,
        };
        Ok(VisionModel {
            embeddings: PictureEmbeddings {
                class_embedding: Param::from_tensor(Tensor::zeros([width], device)),
                patch_embedding: Conv2dConfig::new([3, width], [patch, patch])
                    .with_stride([patch, patch])
                    .with_bias(false)
                    .init(device),
                position_embedding: EmbeddingConfig::new(tokens, width).init(device),
            },
            pre_layrnorm: norm(),
            encoder: encoder.init(device),
            post_layernorm: norm(),
            quick_gelu: self.hidden_act == HiddenActivation::QuickGelu,
            layers: self.num_hidden_layers,
        })
    }
}

impl VisionModel {
    /// The normalised feature of the token of its own, `[batch, width]`.
    fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        let patches = convolution(&self.embeddings.patch_embedding, pixels);
        let [batch, width, rows, columns] = patches.dims();
        let patches = patches.reshape([batch, width, rows * columns]).swap_dims(1, 2);
        let own = self.embeddings.class_embedding.val().reshape([1, 1, width]).expand([batch, 1, width]);
        let positions = self.embeddings.position_embedding.weight.val().unsqueeze();
        let x = layer_norm(&self.pre_layrnorm, Tensor::cat(vec![own, patches], 1) + positions);
        let x = self.encoder.forward(x, 0..self.layers, false, self.quick_gelu);
        layer_norm(&self.post_layernorm, x.narrow(1, 0, 1)).reshape([batch, width])
    }
}

/// Rows of length 1.
fn unit(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt();
    x / norm
}

impl ClipModel {
    /// Reads `config.json` and the weights of a `CLIPModel` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, ClipConfig), Error> {
        let config: ClipConfig = dmd_weights::read_config(folder)?;
        if config.projection_dim == 0 || config.projection_dim > 65_536 {
            return Err(Error::Unsupported {
                key: "projection_dim",
                value: config.projection_dim.to_string(),
                hint: "it is between 1 and 65536".to_owned(),
            });
        }
        let project = |input| LinearConfig::new(input, config.projection_dim).with_bias(false).init(device);
        let network = Self {
            text_model: config.text_config.init(device)?,
            vision_model: config.vision_config.init(device)?,
            text_projection: project(config.text_config.hidden_size),
            visual_projection: project(config.vision_config.hidden_size),
        };
        let path = dmd_weights::weight_file(folder, &["model"])?;
        // The temperature of CLIP's own training.
        let file = dmd_weights::read(&path)?.select(|name| name != "logit_scale");
        Ok((dmd_weights::load(network, &file, &KeyMap::default())?, config))
    }

    /// Pictures in the common space, rows of length 1.
    ///
    /// # Shapes
    ///
    /// `pixels`: `[batch, 3, image_size, image_size]`, each channel brought to CLIP's mean and deviation
    /// ([`Self::pixels`]); the result is `[batch, projection_dim]`.
    pub fn pictures(&self, pixels: Tensor<4>) -> Tensor<2> {
        unit(
            linear(&self.visual_projection, self.vision_model.forward(pixels).unsqueeze::<3>())
                .squeeze_dim(0),
        )
    }

    /// Texts in the common space, rows of length 1.
    ///
    /// # Shapes
    ///
    /// `ids`: `[batch, tokens]`, of which the end of the text is the highest; the result is
    /// `[batch, projection_dim]`.
    pub fn texts(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let [batch, tokens] = ids.dims();
        let values: Vec<i64> = ids.clone().into_data().iter::<i64>().collect();
        let hidden = self.text_model.forward(ids);
        let ends = values.chunks_exact(tokens).enumerate().map(|(row, ids)| {
            let highest = ids.iter().max().copied().unwrap_or(0);
            let end = ids.iter().position(|id| *id == highest).unwrap_or(0);
            hidden.clone().narrow(0, row, 1).narrow(1, end, 1)
        });
        let [_, _, width] = hidden.dims();
        let pooled = Tensor::cat(ends.collect(), 0).reshape([1, batch, width]);
        unit(linear(&self.text_projection, pooled).squeeze_dim(0))
    }

    /// Pictures in [0, 1] as CLIP's input.
    ///
    /// # Shapes
    ///
    /// `pictures`: `[batch, 3, height, width]`, and so is the result.
    pub fn pixels(pictures: Tensor<4>) -> Tensor<4> {
        let row =
            |values: [f32; 3]| Tensor::<1>::from_floats(values, &pictures.device()).reshape([1, 3, 1, 1]);
        let (mean, std) = (row(MEAN), row(STD));
        (pictures - mean) / std
    }

    /// The cosine of each picture with its text, the CLIP score of Hessel et al. 2021 before its factor;
    /// about 0.3 for pictures that show what the text says.
    ///
    /// # Errors
    ///
    /// When a text cannot be encoded.
    ///
    /// # Panics
    ///
    /// If there are not as many texts as pictures.
    pub fn cosines(
        &self,
        pixels: Tensor<4>,
        texts: &[&str],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<f64>, Error> {
        let [batch, ..] = pixels.dims();
        assert_eq!(batch, texts.len(), "a text per picture");
        let mut ids = Vec::new();
        for text in texts {
            ids.extend(tokenizer.encode(text)?.into_iter().map(|id| id as i32));
        }
        let device = pixels.device();
        let tokens = ids.len() / batch.max(1);
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &device).reshape([batch, tokens]);
        let cosines = (self.pictures(pixels) * self.texts(ids)).sum_dim(1);
        Ok(cosines.into_data().iter::<f64>().collect())
    }
}
