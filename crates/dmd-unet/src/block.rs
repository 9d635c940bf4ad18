use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_kernels::{gathered, recomputed};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::resample::{Downsample, Upsample};
use crate::resnet::{Resample, ResnetBlock, ResnetConfig, TimeScaleShift};
use crate::unet::in_type;

/// The attention that follows a residual block: over the positions of the picture, and for some networks also to a
/// context.
pub trait Attend: Module + ModuleDisplay + Sync + 'static {
    /// What the attention reads besides the picture: text features, or `()`.
    type Context: Clone + std::fmt::Debug + Send + Sync + 'static;

    /// `x` and the result: `[batch, channels, height, width]`.
    fn attend(&self, x: Tensor<4>, context: &Self::Context) -> Tensor<4>;

    /// The cost of this attention for `positions` positions and a context of `tokens` tokens.
    fn cost(&self, positions: usize, tokens: usize) -> Cost;
}

/// The inputs that all residual blocks of one forward pass share, and whether the backward pass recomputes the blocks.
#[derive(Debug, Clone)]
pub(crate) struct Told<C> {
    /// Embedding of the time, plus that of the class for a network with classes: `[batch, width]`.
    pub(crate) embedding: Tensor<2>,
    pub(crate) context: C,
    /// Whether the backward pass recomputes each block, so that the forward pass need not keep the block's activations.
    pub(crate) recompute: bool,
}

/// Applies a residual block and the attention after it.
fn resnet_and_attention<A: Attend>(
    resnet: &ResnetBlock,
    attention: Option<&A>,
    x: Tensor<4>,
    skip: Option<Tensor<4>>,
    told: &Told<A::Context>,
) -> Tensor<4> {
    type Parts<A> = (ResnetBlock, Option<A>);
    fn compute<A: Attend>(
        (resnet, attention): (&ResnetBlock, Option<&A>),
        x: Tensor<4>,
        embedding: &Tensor<2>,
        context: &A::Context,
    ) -> Tensor<4> {
        // The embedding is converted here, for each block. Its gradient, a sum over all blocks, is thus summed in the
        // float type in which the embedding was computed.
        let embedding = in_type(embedding.clone(), x.dtype());
        let x = resnet.forward(x, Some(&embedding));
        match attention {
            Some(attention) => attention.attend(x, context),
            None => x,
        }
    }

    if !told.recompute {
        let x = match skip {
            Some(skip) => Tensor::cat(vec![gathered(x), gathered(skip)], 1),
            None => gathered(x),
        };
        return compute((resnet, attention), x, &gathered(told.embedding.clone()), &told.context);
    }
    let (context, [batch, width]) = (told.context.clone(), told.embedding.dims());
    let embedding = told.embedding.clone().reshape([batch, width, 1, 1]);
    let parts: Parts<A> = (resnet.clone(), attention.cloned());
    let run = move |(resnet, attention): &Parts<A>, x: Tensor<4>, embedding: Tensor<4>| {
        compute((resnet, attention.as_ref()), x, &embedding.reshape([batch, width]), &context)
    };
    match skip {
        // The backward pass keeps `x` and `skip` instead of the concatenated tensor: other blocks keep these two
        // anyway.
        Some(skip) => recomputed(
            &parts,
            [x, skip, embedding],
            Arc::new(move |parts, [x, skip, embedding]| run(parts, Tensor::cat(vec![x, skip], 1), embedding)),
        ),
        None => recomputed(
            &parts,
            [x, embedding],
            Arc::new(move |parts, [x, embedding]| run(parts, x, embedding)),
        ),
    }
}

/// The cost of a residual block and the attention after it, and the size of the output. `joined` says whether the input
/// is a concatenation of two tensors, which is a copy; `tokens` is the number of tokens of the context.
fn cost_of<A: Attend>(
    resnet: &ResnetBlock,
    attention: Option<&A>,
    side: [usize; 2],
    (joined, tokens): (bool, usize),
) -> (Cost, [usize; 2]) {
    let (mut cost, after) = resnet.cost(side);
    if joined {
        cost.kept += resnet.input() * side[0] * side[1];
    }
    if let Some(attention) = attention {
        let more = attention.cost(after[0] * after[1], tokens);
        cost.kept += more.kept;
        cost.parameters += more.parameters;
        cost.operations += more.operations;
    }
    (cost, after)
}

/// The options that all blocks of a network share.
pub(crate) struct BlockConfig<'a, A> {
    /// Channels per level.
    pub(crate) channels: &'a [usize],
    /// Residual blocks per down block. An up block has one more.
    pub(crate) layers: usize,
    /// Number of groups of every group normalisation.
    pub(crate) groups: usize,
    /// Epsilon of the residual blocks' normalisations.
    pub(crate) epsilon: f64,
    pub(crate) scale_shift: TimeScaleShift,
    /// Makes one attention for the level of this index.
    pub(crate) attention: &'a dyn Fn(usize) -> A,
    pub(crate) device: &'a Device,
}

impl<A> BlockConfig<'_, A> {
    fn resnet(&self, input: usize, output: usize, resample: Resample) -> ResnetBlock {
        ResnetConfig {
            input,
            output,
            embedding: Some(4 * self.channels[0]),
            groups: self.groups,
            epsilon: self.epsilon,
            scale_shift: self.scale_shift,
            resample,
        }
        .init(self.device)
    }

    fn attentions(&self, level: &Level, count: usize) -> Vec<A> {
        let count = if level.attends { count } else { 0 };
        (0..count).map(|_| (self.attention)(level.index)).collect()
    }
}

/// The options in which one level differs from the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    /// Index of the level; 0 is the level of the highest resolution.
    pub(crate) index: usize,
    pub(crate) attends: bool,
    /// What changes the resolution after the level.
    pub(crate) resampling: Resampling,
}

/// How a level changes the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Resampling {
    /// With a convolution.
    #[default]
    #[serde(rename = "conv")]
    Convolution,
    /// With a residual block, as ADM does: it averages to halve the resolution and repeats to double it.
    #[serde(rename = "resnet")]
    Residual,
}

/// The layer with which a level halves height and width.
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

/// The layer with which a level doubles height and width.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful per network, and Module is not derived through a box"
)]
enum Upsampler {
    /// Repetition of every position, then a convolution.
    Convolution(Upsample),
    /// A residual block that repeats (ADM).
    Residual(ResnetBlock),
}

/// Tensors of the skip connections: outputs of the down path that the up path needs, in the order in which the down
/// path makes them.
pub(crate) type Skips = Vec<Tensor<4>>;

/// diffusers' `DownBlock2D` and its variants with attention. `attentions` is empty for a level without attention.
#[derive(Module, Debug)]
pub(crate) struct DownBlock<A> {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<A>,
    downsamplers: Vec<Downsampler>,
}

impl<A: Attend> DownBlock<A> {
    pub(crate) fn new(config: &BlockConfig<'_, A>, level: &Level) -> Self {
        let channels = config.channels[level.index];
        let input = config.channels[level.index.saturating_sub(1)];
        let last = level.index + 1 == config.channels.len();
        let downsampler = || match level.resampling {
            Resampling::Convolution => {
                Downsampler::Convolution(Downsample::symmetric(channels, config.device))
            }
            Resampling::Residual => Downsampler::Residual(config.resnet(channels, channels, Resample::Halve)),
        };
        Self {
            resnets: (0..config.layers)
                .map(|i| config.resnet(if i == 0 { input } else { channels }, channels, Resample::Keep))
                .collect(),
            attentions: config.attentions(level, config.layers),
            downsamplers: (!last).then(downsampler).into_iter().collect(),
        }
    }

    /// Appends the cost of each part of the block to `costs`, and returns the size of the block's output.
    pub(crate) fn costs(&self, mut side: [usize; 2], tokens: usize, costs: &mut Vec<Cost>) -> [usize; 2] {
        for (i, resnet) in self.resnets.iter().enumerate() {
            costs.push(cost_of(resnet, self.attentions.get(i), side, (false, tokens)).0);
        }
        for downsampler in &self.downsamplers {
            let (cost, after) = match downsampler {
                Downsampler::Convolution(downsample) => downsample.cost(side),
                Downsampler::Residual(resnet) => cost_of::<A>(resnet, None, side, (false, tokens)),
            };
            costs.push(cost);
            side = after;
        }
        side
    }

    /// Returns the block's output, and appends every tensor that the up path needs to `skips`.
    pub(crate) fn forward(&self, mut x: Tensor<4>, told: &Told<A::Context>, skips: &mut Skips) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet_and_attention(resnet, self.attentions.get(i), x, None, told);
            skips.push(x.clone());
        }
        for downsampler in &self.downsamplers {
            x = match downsampler {
                Downsampler::Convolution(downsample) => downsample.forward(x),
                Downsampler::Residual(resnet) => resnet_and_attention::<A>(resnet, None, x, None, told),
            };
            skips.push(x.clone());
        }
        x
    }
}

/// diffusers' `UNetMidBlock2D` and `UNetMidBlock2DCrossAttn`: a residual block, attention, a residual block.
#[derive(Module, Debug)]
pub(crate) struct MidBlock<A> {
    attentions: Vec<A>,
    resnets: Vec<ResnetBlock>,
}

impl<A: Attend> MidBlock<A> {
    pub(crate) fn new(config: &BlockConfig<'_, A>) -> Self {
        let deepest = config.channels.len() - 1;
        let channels = config.channels[deepest];
        Self {
            attentions: vec![(config.attention)(deepest)],
            resnets: (0..2).map(|_| config.resnet(channels, channels, Resample::Keep)).collect(),
        }
    }

    pub(crate) fn costs(&self, side: [usize; 2], tokens: usize, costs: &mut Vec<Cost>) {
        for (i, resnet) in self.resnets.iter().enumerate() {
            costs.push(cost_of(resnet, self.attentions.get(i), side, (false, tokens)).0);
        }
    }

    pub(crate) fn forward(&self, mut x: Tensor<4>, told: &Told<A::Context>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet_and_attention(resnet, self.attentions.get(i), x, None, told);
        }
        x
    }
}

/// diffusers' `UpBlock2D` and its variants with attention. `attentions` is empty for a level without attention.
#[derive(Module, Debug)]
pub(crate) struct UpBlock<A> {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<A>,
    upsamplers: Vec<Upsampler>,
}

impl<A: Attend> UpBlock<A> {
    /// Each residual block also receives one skip. `skips` lists the channels of these skips in the order of use.
    pub(crate) fn new(config: &BlockConfig<'_, A>, level: &Level, skips: &[usize]) -> Self {
        let channels = config.channels[level.index];
        let below = config.channels[(level.index + 1).min(config.channels.len() - 1)];
        let before = |i| if i == 0 { below } else { channels };
        let upsampler = || match level.resampling {
            Resampling::Convolution => Upsampler::Convolution(Upsample::new(channels, config.device)),
            Resampling::Residual => Upsampler::Residual(config.resnet(channels, channels, Resample::Double)),
        };
        Self {
            resnets: skips
                .iter()
                .enumerate()
                .map(|(i, skip)| config.resnet(before(i) + skip, channels, Resample::Keep))
                .collect(),
            attentions: config.attentions(level, skips.len()),
            upsamplers: (level.index > 0).then(upsampler).into_iter().collect(),
        }
    }

    /// Appends the cost of each part of the block to `costs`, and returns the size of the block's output. `next` is the
    /// size of the skips of the next level.
    pub(crate) fn costs(
        &self,
        side: [usize; 2],
        next: [usize; 2],
        tokens: usize,
        costs: &mut Vec<Cost>,
    ) -> [usize; 2] {
        for (i, resnet) in self.resnets.iter().enumerate() {
            costs.push(cost_of(resnet, self.attentions.get(i), side, (true, tokens)).0);
        }
        for upsampler in &self.upsamplers {
            costs.push(match upsampler {
                Upsampler::Convolution(upsample) => upsample.cost(next),
                Upsampler::Residual(resnet) => cost_of::<A>(resnet, None, side, (false, tokens)).0,
            });
        }
        if self.upsamplers.is_empty() { side } else { next }
    }

    /// Takes one skip per residual block from the end of `skips`.
    ///
    /// # Panics
    ///
    /// If `skips` has too few tensors. The down and up blocks are then of different configurations.
    pub(crate) fn forward(&self, mut x: Tensor<4>, told: &Told<A::Context>, skips: &mut Skips) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("as many skips as the encoder pushed");
            x = resnet_and_attention(resnet, self.attentions.get(i), x, Some(skip), told);
        }
        for upsampler in &self.upsamplers {
            x = match upsampler {
                Upsampler::Convolution(upsample) => match skips.last().map(Tensor::dims) {
                    Some([_, _, height, width]) => upsample.forward_to(x, [height, width]),
                    None => upsample.forward(x),
                },
                Upsampler::Residual(resnet) => resnet_and_attention::<A>(resnet, None, x, None, told),
            };
        }
        x
    }
}
