use std::path::Path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use dmd_kernels::device::computes_in;
use dmd_kernels::{Activation, convolution, normalised_convolution};

use crate::block::{Attend, BlockConfig, DownBlock, Level, MidBlock, Skips, Told, UpBlock};
use crate::cost::{self, Cost, Costs};
use crate::embedding::{TimestepEmbedding, sinusoidal};
use crate::resnet::{conv3x3, group_norm};
use crate::{Error, Network};

/// A UNet of residual blocks with attention `A`, conditioned on the time and for some networks on a class. [`UNet2d`]
/// and [`ClassUNet2d`] are this type with two kinds of attention.
///
/// [`UNet2d`]: crate::UNet2d
/// [`ClassUNet2d`]: crate::ClassUNet2d
#[derive(Module, Debug)]
pub struct UNet<A> {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Embedding>,
    down_blocks: Vec<DownBlock<A>>,
    mid_block: MidBlock<A>,
    up_blocks: Vec<UpBlock<A>>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Whether a backward pass recomputes the blocks.
    #[module(skip)]
    recompute: bool,
    /// The float type of the computations, where it differs from that of the parameters.
    #[module(skip)]
    computed: Option<FloatDType>,
}

/// The tensors between the first half of the network and the second.
pub(crate) struct Encoded<C> {
    /// Output of the middle block, `[batch, channels, height / 2^k, width / 2^k]`.
    bottleneck: Tensor<4>,
    skips: Skips,
    told: Told<C>,
}

impl<C> Encoded<C> {
    /// The middle block's output, in single precision.
    pub(crate) fn bottleneck(self) -> Tensor<4> {
        in_single(self.bottleneck)
    }
}

/// The options from which a [`UNet`] with any attention is made.
pub(crate) struct BodyConfig<'a, A> {
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) classes: Option<usize>,
    /// Number of sinusoids of the guidance scale, for a network that takes the scale as an input.
    pub(crate) guidance: Option<usize>,
    pub(crate) blocks: BlockConfig<'a, A>,
    /// The down blocks, from the highest resolution to the lowest.
    pub(crate) down: Vec<Level>,
    /// The up blocks, from the lowest resolution to the highest.
    pub(crate) up: Vec<Level>,
}

impl<A: Attend> BodyConfig<'_, A> {
    pub(crate) fn init(&self) -> UNet<A> {
        let Self { in_channels, out_channels, classes, guidance, blocks, down, up } = self;
        let (channels, device) = (blocks.channels, blocks.device);
        let width = 4 * channels[0];
        let mut skips = skip_channels(channels, blocks.layers);
        let down_blocks = down.iter().map(|level| DownBlock::new(blocks, level)).collect();
        let mid_block = MidBlock::new(blocks);
        let up_blocks = up.iter().map(|level| {
            let taken: Vec<usize> = skips.drain(skips.len() - (blocks.layers + 1)..).rev().collect();
            UpBlock::new(blocks, level, &taken)
        });
        let time_embedding = TimestepEmbedding::new(channels[0], width, device);
        UNet {
            conv_in: conv3x3(*in_channels, channels[0], device),
            time_embedding: match guidance {
                Some(sinusoids) => time_embedding.told_guidance(*sinusoids, device),
                None => time_embedding,
            },
            class_embedding: classes.map(|classes| EmbeddingConfig::new(classes, width).init(device)),
            down_blocks,
            mid_block,
            up_blocks: up_blocks.collect(),
            conv_norm_out: group_norm(blocks.groups, channels[0], blocks.epsilon, device),
            conv_out: conv3x3(channels[0], *out_channels, device),
            recompute: false,
            computed: None,
        }
    }
}

/// Channels of every skip, in the order in which the down path makes the skips.
fn skip_channels(channels: &[usize], layers: usize) -> Vec<usize> {
    let mut skips = vec![channels[0]];
    for (level, channels_here) in channels.iter().enumerate() {
        skips.extend(vec![*channels_here; layers]);
        if level + 1 < channels.len() {
            skips.push(*channels_here);
        }
    }
    skips
}

/// The tensor converted to a float type. A tensor that has the type already is returned unchanged.
pub(crate) fn in_type<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// The tensor in single precision.
fn in_single(x: Tensor<4>) -> Tensor<4> {
    in_type(x, FloatDType::F32.into())
}

impl<A: Attend> UNet<A> {
    pub(crate) fn guided_by(mut self, scale: f64) -> Self {
        self.time_embedding = self.time_embedding.with_guidance(scale);
        self
    }

    pub(crate) fn recomputing_blocks(self) -> Self {
        Self { recompute: true, ..self }
    }

    pub(crate) fn computed_in(self, dtype: FloatDType) -> Self {
        Self { computed: Some(dtype), ..self }
    }

    /// The float type in which the network computes: what its device computes in with parameters of their type, unless
    /// [`Self::computed_in`] set another.
    pub(crate) fn dtype(&self) -> DType {
        let of_parameters = || {
            let weight = self.conv_in.weight.val();
            computes_in(&weight.device(), weight.dtype())
        };
        self.computed.map_or_else(of_parameters, DType::from)
    }

    /// The costs of the network's parts for a sample of `[height, width]` and a context of `tokens` tokens.
    pub(crate) fn costs_on(&self, [height, width]: [usize; 2], tokens: usize) -> Costs {
        let Self { time_embedding, class_embedding, conv_in, conv_norm_out, conv_out, .. } = self;
        let [_, channels] = cost::channels(conv_in);
        let positions = height * width;
        let told =
            dmd_weights::count(time_embedding) + class_embedding.as_ref().map_or(0, dmd_weights::count);
        let mut first = Cost::of(
            conv_in,
            channels * positions,
            channels * positions,
            cost::convolution(conv_in, positions),
        );
        first.parameters += told;
        let (mut down, mut sides) = (vec![first], vec![[height, width]]);
        for block in &self.down_blocks {
            let side = block.costs(sides[sides.len() - 1], tokens, &mut down);
            sides.push(side);
        }
        // The last down block does not change the resolution, so the last entry repeats the one before it.
        let mut side = sides.pop().unwrap_or([height, width]);
        self.mid_block.costs(side, tokens, &mut down);
        let mut up = Vec::new();
        for block in &self.up_blocks {
            sides.pop();
            side = block.costs(side, sides.last().copied().unwrap_or(side), tokens, &mut up);
        }
        let out = cost::channels(conv_out)[1] * positions;
        let mut last =
            Cost::of(conv_out, channels * positions + out, out, cost::convolution(conv_out, positions));
        last.parameters += dmd_weights::count(conv_norm_out);
        up.push(last);
        Costs { down, up }
    }

    /// The embedding of the time, plus that of the classes for a network with classes: `[batch, width]`.
    ///
    /// # Panics
    ///
    /// If the network has classes and `classes` is `None`, or the other way round.
    pub(crate) fn embedding(&self, t: Tensor<1>, classes: Option<&Tensor<2>>) -> Tensor<2> {
        let [width, ..] = self.conv_in.weight.dims();
        let time = self.time_embedding.forward(sinusoidal(t, width));
        match (&self.class_embedding, classes) {
            (Some(table), Some(classes)) => {
                let table = table.weight.val();
                time + in_type(classes.clone(), table.dtype()).matmul(table)
            }
            (None, None) => time,
            (Some(_), None) => panic!("this network has classes, and none were given"),
            (None, Some(_)) => panic!("this network has no classes"),
        }
    }

    /// The first half of the network, up to and including the middle block.
    pub(crate) fn down(
        &self,
        x: Tensor<4>,
        embedding: Tensor<2>,
        context: A::Context,
    ) -> Encoded<A::Context> {
        let mut h = convolution(&self.conv_in, in_type(x, self.dtype()));
        let mut skips = vec![h.clone()];
        let told = Told { embedding, context, recompute: self.recompute };
        for block in &self.down_blocks {
            h = block.forward(h, &told, &mut skips);
        }
        let bottleneck = self.mid_block.forward(h, &told);
        Encoded { bottleneck, skips, told }
    }

    /// The second half of the network. It computes the output, `[batch, out_channels, height, width]` in single
    /// precision, from the bottleneck and the skips.
    pub(crate) fn up(&self, encoded: Encoded<A::Context>) -> Tensor<4> {
        let Encoded { bottleneck, mut skips, told } = encoded;
        let mut h = bottleneck;
        for block in &self.up_blocks {
            h = block.forward(h, &told, &mut skips);
        }
        in_single(normalised_convolution(&self.conv_norm_out, Activation::Silu, &self.conv_out, h, None))
    }
}

impl<A> UNet<A>
where
    Self: Network,
{
    /// Reads `config.json` and the weights of a diffusers `unet` folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(folder: &Path, device: &Device) -> Result<(Self, <Self as Network>::Config), Error> {
        let config = dmd_weights::read_config(folder)?;
        let path = dmd_weights::weight_file(folder, &["diffusion_pytorch_model"])?;
        Ok((Self::from_file(&path, &config, device)?, config))
    }

    /// Reads a weight file without a configuration of its own, such as that of a distilled generator, for the given
    /// configuration.
    ///
    /// # Errors
    ///
    /// When the file is missing, broken or does not fit.
    pub fn from_file(
        path: &Path,
        config: &<Self as Network>::Config,
        device: &Device,
    ) -> Result<Self, Error> {
        Self::from_tensors(config, &dmd_weights::read(path)?, device)
    }
}
