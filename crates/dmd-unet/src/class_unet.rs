use std::path::Path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use dmd_core::{Classes, Condition, Denoiser, FakeScore, NoiseLevel, Prediction, per_sample};
use dmd_kernels::{Activation, convolution};

use crate::attention::PositionAttention;
use crate::class_config::ClassUNetConfig;
use crate::embedding::{TimestepEmbedding, sinusoidal};
use crate::resample::{Downsample, Upsample};
use crate::resnet::{Resample, ResnetBlock, ResnetConfig, apply_norm, conv3x3, group_norm};
use crate::{CLASS_UNET_KEYS, Discriminator, Error};

/// What the blocks of a network share.
struct Parts<'a> {
    config: &'a ClassUNetConfig,
    device: &'a Device,
}

impl Parts<'_> {
    fn resnet(&self, input: usize, output: usize, resample: Resample) -> ResnetBlock {
        let config = self.config;
        ResnetConfig {
            input,
            output,
            embedding: Some(4 * config.block_out_channels[0]),
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
            scale_shift: config.resnet_time_scale_shift == "scale_shift",
            resample,
        }
        .init(self.device)
    }

    fn attentions(&self, channels: usize, count: usize) -> Vec<PositionAttention> {
        let heads = channels / self.config.attention_head_dim;
        let norm = (self.config.norm_num_groups, self.config.norm_eps);
        (0..count).map(|_| PositionAttention::new(channels, heads, norm, self.device)).collect()
    }

    /// Whether a block changes the picture's size by a residual block.
    fn by_resnet(&self, block: &str, of_attention: &str) -> bool {
        match block {
            "DownBlock2D" | "UpBlock2D" => false,
            "AttnDownBlock2D" | "AttnUpBlock2D" => of_attention == "resnet",
            _ => true,
        }
    }
}

/// How a level halves the picture.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful per network, and Module is not derived through a box"
)]
enum Downsampler {
    /// A convolution of stride 2.
    Convolution(Downsample),
    /// A residual block that averages (ADM).
    Residual(ResnetBlock),
}

/// How a level doubles it.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful per network, and Module is not derived through a box"
)]
enum Upsampler {
    /// Repetition and a convolution.
    Convolution(Upsample),
    /// A residual block that repeats (ADM).
    Residual(ResnetBlock),
}

/// `DownBlock2D`, `AttnDownBlock2D` or `ResnetDownsampleBlock2D`.
#[derive(Module, Debug)]
struct DownLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<PositionAttention>,
    downsamplers: Vec<Downsampler>,
}

/// `UNetMidBlock2D`.
#[derive(Module, Debug)]
struct MiddleLevel {
    attentions: Vec<PositionAttention>,
    resnets: Vec<ResnetBlock>,
}

/// `UpBlock2D`, `AttnUpBlock2D` or `ResnetUpsampleBlock2D`.
#[derive(Module, Debug)]
struct UpLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<PositionAttention>,
    upsamplers: Vec<Upsampler>,
}

/// diffusers' `UNet2DModel`: pictures, perhaps of classes, no text.
#[derive(Module, Debug)]
pub struct ClassUNet2d {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Embedding>,
    down_blocks: Vec<DownLevel>,
    mid_block: MiddleLevel,
    up_blocks: Vec<UpLevel>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Channels and side of the bottleneck for pictures of the configured size.
    bottleneck: [usize; 2],
}

impl ClassUNetConfig {
    /// A network with fresh random parameters.
    ///
    /// # Errors
    ///
    /// As [`ClassUNetConfig::validate`].
    pub fn init(&self, device: &Device) -> Result<ClassUNet2d, Error> {
        self.validate()?;
        let parts = Parts { config: self, device };
        let channels = &self.block_out_channels;
        let (levels, layers) = (channels.len(), self.layers_per_block);
        // Channels of every skip, in the order in which the encoder makes them.
        let mut skips = vec![channels[0]];
        let mut down_blocks = Vec::with_capacity(levels);
        for i in 0..levels {
            let (input, output, kind) =
                (channels[i.saturating_sub(1)], channels[i], &self.down_block_types[i]);
            let downsampler = || match parts.by_resnet(kind, &self.downsample_type) {
                true => Downsampler::Residual(parts.resnet(output, output, Resample::Halve)),
                false => Downsampler::Convolution(Downsample::symmetric(output, device)),
            };
            down_blocks.push(DownLevel {
                resnets: (0..layers)
                    .map(|layer| {
                        parts.resnet(if layer == 0 { input } else { output }, output, Resample::Keep)
                    })
                    .collect(),
                attentions: parts.attentions(output, if kind == "AttnDownBlock2D" { layers } else { 0 }),
                downsamplers: (i + 1 < levels).then(downsampler).into_iter().collect(),
            });
            skips.extend(vec![output; layers]);
            if i + 1 < levels {
                skips.push(output);
            }
        }
        let deepest = channels[levels - 1];
        let mid_block = MiddleLevel {
            attentions: parts.attentions(deepest, 1),
            resnets: (0..2).map(|_| parts.resnet(deepest, deepest, Resample::Keep)).collect(),
        };
        let mut up_blocks = Vec::with_capacity(levels);
        for block in 0..levels {
            let i = levels - 1 - block;
            let (below, output, kind) =
                (channels[(i + 1).min(levels - 1)], channels[i], &self.up_block_types[block]);
            let taken: Vec<usize> = skips.drain(skips.len() - (layers + 1)..).rev().collect();
            let upsampler = || match parts.by_resnet(kind, &self.upsample_type) {
                true => Upsampler::Residual(parts.resnet(output, output, Resample::Double)),
                false => Upsampler::Convolution(Upsample::new(output, device)),
            };
            up_blocks.push(UpLevel {
                resnets: taken
                    .iter()
                    .enumerate()
                    .map(|(layer, skip)| {
                        parts.resnet(if layer == 0 { below } else { output } + skip, output, Resample::Keep)
                    })
                    .collect(),
                attentions: parts.attentions(output, if kind == "AttnUpBlock2D" { layers + 1 } else { 0 }),
                upsamplers: (i > 0).then(upsampler).into_iter().collect(),
            });
        }
        let width = 4 * channels[0];
        Ok(ClassUNet2d {
            conv_in: conv3x3(self.in_channels, channels[0], device),
            time_embedding: TimestepEmbedding::new(channels[0], width, device),
            class_embedding: self
                .num_class_embeds
                .map(|classes| EmbeddingConfig::new(classes, width).init(device)),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: group_norm(self.norm_num_groups, channels[0], self.norm_eps, device),
            conv_out: conv3x3(channels[0], self.out_channels, device),
            bottleneck: [deepest, self.sample_size / self.downsampling()],
        })
    }
}

/// The names of a model's classes: `classes.json` of its folder, a list, or their numbers.
///
/// # Errors
///
/// When the file is damaged or has another number of names.
pub fn class_names(model: &Path, classes: usize) -> Result<Vec<String>, Error> {
    let path = model.join("classes.json");
    if !path.is_file() {
        return Ok((0..classes).map(|class| class.to_string()).collect());
    }
    let names: Vec<String> = dmd_weights::read_json(&path)?;
    if names.len() != classes {
        return Err(Error::Unsupported {
            network: "class-conditional UNet",
            key: "num_class_embeds".to_owned(),
            value: classes.to_string(),
            hint: format!(" beside {} names in {path:?}", names.len()),
        });
    }
    Ok(names)
}

/// The network after its first half.
struct Half {
    bottleneck: Tensor<4>,
    skips: Vec<Tensor<4>>,
    embedding: Tensor<2>,
}

impl ClassUNet2d {
    /// Reads `config.json` and the weights of a diffusers `unet` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, ClassUNetConfig), Error> {
        let config: ClassUNetConfig = dmd_weights::read_config(folder)?;
        let path = dmd_weights::weight_file(folder, &["diffusion_pytorch_model"])?;
        let file = dmd_weights::read(&path)?;
        Ok((dmd_weights::load(config.init(device)?, &file, &CLASS_UNET_KEYS)?, config))
    }

    /// Channels and side of the bottleneck for pictures of the configured size: what a critic sees.
    pub fn bottleneck(&self) -> [usize; 2] {
        self.bottleneck
    }

    /// The network's output.
    ///
    /// # Shapes
    ///
    /// `x`: `[batch, in_channels, height, width]`, height and width divisible by
    /// [`ClassUNetConfig::downsampling`]; `t`: `[batch]`; `classes`: `[batch, classes]`, `None` exactly for a
    /// network without classes.
    ///
    /// # Panics
    ///
    /// If classes are given to a network without, or none to a network with.
    pub fn forward(&self, x: Tensor<4>, t: Tensor<1>, classes: &Classes) -> Tensor<4> {
        let Half { bottleneck, mut skips, embedding } = self.encode(x, t, classes);
        let mut h = bottleneck;
        for block in &self.up_blocks {
            for (i, resnet) in block.resnets.iter().enumerate() {
                let skip = skips.pop().expect("as many skips as the encoder pushed");
                h = resnet.forward(Tensor::cat(vec![h, skip], 1), Some(&embedding));
                if let Some(attention) = block.attentions.get(i) {
                    h = attention.forward(h);
                }
            }
            for upsampler in &block.upsamplers {
                h = match upsampler {
                    Upsampler::Convolution(upsample) => upsample.forward(h),
                    Upsampler::Residual(resnet) => resnet.forward(h, Some(&embedding)),
                };
            }
        }
        convolution(&self.conv_out, apply_norm(&self.conv_norm_out, h, Activation::Silu))
    }

    fn encode(&self, x: Tensor<4>, t: Tensor<1>, classes: &Classes) -> Half {
        let [width, ..] = self.conv_in.weight.dims();
        let mut embedding = self.time_embedding.forward(sinusoidal(t, width));
        match (&self.class_embedding, classes) {
            (Some(table), Some(classes)) => {
                embedding = embedding + classes.clone().matmul(table.weight.val());
            }
            (None, None) => {}
            (Some(_), None) => panic!("this network has classes, and none were given"),
            (None, Some(_)) => panic!("this network has no classes"),
        }
        let mut h = convolution(&self.conv_in, x);
        let mut skips = vec![h.clone()];
        for block in &self.down_blocks {
            for (i, resnet) in block.resnets.iter().enumerate() {
                h = resnet.forward(h, Some(&embedding));
                if let Some(attention) = block.attentions.get(i) {
                    h = attention.forward(h);
                }
                skips.push(h.clone());
            }
            for downsampler in &block.downsamplers {
                h = match downsampler {
                    Downsampler::Convolution(downsample) => downsample.forward(h),
                    Downsampler::Residual(resnet) => resnet.forward(h, Some(&embedding)),
                };
                skips.push(h.clone());
            }
        }
        let mut h = self.mid_block.resnets[0].forward(h, Some(&embedding));
        for (attention, resnet) in self.mid_block.attentions.iter().zip(&self.mid_block.resnets[1..]) {
            h = resnet.forward(attention.forward(h), Some(&embedding));
        }
        Half { bottleneck: h, skips, embedding }
    }
}

/// A [`ClassUNet2d`] with the meaning of its output. With EDM's preconditioning
/// ([`Prediction::Karras`]) it is told `ln(sigma) / 4`, otherwise the schedule's time.
#[derive(Module, Debug)]
pub struct ClassDenoiser {
    /// The network.
    pub unet: ClassUNet2d,
    /// A critic's head on its bottleneck; a fake score's alone.
    critic: Option<Discriminator>,
    #[module(skip)]
    prediction: Prediction,
    /// The float type of the network's parameters and activations.
    #[module(skip)]
    dtype: DType,
}

impl ClassDenoiser {
    /// The denoiser of a network that predicts `prediction`.
    pub fn new(unet: ClassUNet2d, prediction: Prediction) -> Self {
        Self { unet, critic: None, prediction, dtype: DType::F32 }
    }

    /// The same denoiser with a critic's head on its bottleneck (DMD2, section 4.3).
    pub fn with_critic(self, critic: Discriminator) -> Self {
        Self { critic: Some(critic), ..self }
    }

    /// The same denoiser, frozen, with its network in another float type; inputs and outputs stay in single
    /// precision.
    pub fn in_precision(self, dtype: FloatDType) -> Self {
        Self { unet: dmd_weights::cast(self.unet, dtype), dtype: dtype.into(), ..self }
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The network's input and the time it is told.
    fn inputs(&self, x_t: Tensor<4>, level: &NoiseLevel) -> (Tensor<4>, Tensor<1>) {
        let t = match self.prediction {
            Prediction::Karras { .. } => level.sigma.clone().log() / 4.0,
            _ => level.t.clone(),
        };
        (x_t * per_sample(self.prediction.scalings(level).c_in), t)
    }
}

impl Denoiser for ClassDenoiser {
    type Condition = Classes;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Tensor<4> {
        let [batch, ..] = x_t.dims();
        let (input, t) = self.inputs(x_t.clone(), level);
        let classes = classes.expand(batch).map(|classes| classes.cast(self.dtype));
        let output = self.unet.forward(input.cast(self.dtype), t, &classes).cast(DType::F32);
        self.prediction.to_x0(output, x_t, level)
    }
}

impl FakeScore for ClassDenoiser {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.prediction.loss_weight(level)
    }

    /// The encoder and the middle block only, without guidance.
    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Option<Tensor<2>> {
        let critic = self.critic.as_ref()?;
        let [batch, ..] = x_t.dims();
        let (input, t) = self.inputs(x_t, level);
        Some(critic.forward(self.unet.encode(input, t, &classes.expand(batch)).bottleneck))
    }
}
