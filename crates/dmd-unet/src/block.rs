use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_kernels::{gathered, recomputed};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::resample::{Downsample, Upsample};
use crate::resnet::{Resample, ResnetBlock, ResnetConfig, TimeScaleShift};
use crate::unet::in_type;

/// What a block does after a residual block: attention over the positions, perhaps to a context.
pub trait Attend: Module + ModuleDisplay + Sync + 'static {
    /// What is attended to besides the picture: text features, or `()`.
    type Context: Clone + std::fmt::Debug + Send + Sync + 'static;

    /// `x: [batch, channels, height, width]`, and so is the result.
    fn attend(&self, x: Tensor<4>, context: &Self::Context) -> Tensor<4>;

    /// What it costs on so many positions, and with so many tokens of the context.
    fn cost(&self, positions: usize, tokens: usize) -> Cost;
}

/// What every residual block of a call is told, and how its activations are kept for a backward pass.
#[derive(Debug, Clone)]
pub(crate) struct Told<C> {
    /// The time, and the class where there is one: `[batch, width]`.
    pub(crate) embedding: Tensor<2>,
    pub(crate) context: C,
    /// Whether the backward pass computes a block again instead of keeping what it computes.
    pub(crate) recompute: bool,
}

/// A residual block and the attention after it.
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
        // The embedding keeps the type that it was made in: its gradient, a sum over all blocks, is added up in that.
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
        // What is joined is kept in its two parts, which others keep too.
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

/// What a residual block with the attention after it costs, and the size of its output. `joined` says
/// that its input is a copy of two joined tensors, with as many `tokens` of a context.
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

/// What all blocks of a network share.
pub(crate) struct BlockConfig<'a, A> {
    /// Channels per level.
    pub(crate) channels: &'a [usize],
    /// Residual blocks per level on the way down; one more on the way up.
    pub(crate) layers: usize,
    /// Groups of every group normalisation.
    pub(crate) groups: usize,
    /// Epsilon of the residual blocks' normalisations.
    pub(crate) epsilon: f64,
    pub(crate) scale_shift: TimeScaleShift,
    /// Makes the attention of a level.
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

/// How a level differs from the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    /// Its number, from the top.
    pub(crate) index: usize,
    pub(crate) attends: bool,
    /// What changes the size after it.
    pub(crate) resampling: Resampling,
}

/// How levels change the size of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Resampling {
    /// By a convolution.
    #[default]
    #[serde(rename = "conv")]
    Convolution,
    /// By a residual block that averages or repeats (ADM).
    #[serde(rename = "resnet")]
    Residual,
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

/// Tensors that the way up needs, in the order in which the way down makes them.
pub(crate) type Skips = Vec<Tensor<4>>;

/// diffusers' `DownBlock2D` with its relatives: `attentions` is empty for a level that does not attend.
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

    /// Appends what the block's parts cost, and gives the size of its output.
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

    /// The block's output; every intermediate that the way up needs is appended to `skips`.
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

/// A residual block, attention, a residual block: `UNetMidBlock2D` and `UNetMidBlock2DCrossAttn`.
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

/// diffusers' `UpBlock2D` with its relatives: `attentions` is empty for a level that does not attend.
#[derive(Module, Debug)]
pub(crate) struct UpBlock<A> {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<A>,
    upsamplers: Vec<Upsampler>,
}

impl<A: Attend> UpBlock<A> {
    /// Each residual block also receives one of `skips`, whose channels are listed in the order of use.
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

    /// Appends what the block's parts cost, and gives the size of its output. `next` is the size of the skips of the level
    /// that follows.
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
    /// If `skips` runs out: encoder and decoder are not of one configuration.
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
