use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::module::{conv2d, layer_norm};
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{DType, FloatDType, Tensor};

use crate::{Activation, attention, convolution3, geglu, group_norm};

/// An operation of a diffusion network with its shapes: what a device is checked on, and timed by. Kernels' faults
/// and speeds belong to shapes, so a network is as sound as the list of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A convolution over `[batch, input, height, width]` with zeros around.
    Convolution {
        /// Samples.
        batch: usize,
        /// Channels that come in.
        input: usize,
        /// Channels that go out.
        output: usize,
        /// Height and width of what comes in.
        side: [usize; 2],
        /// Height and width of the kernel.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Zeros above and left, below and right.
        padding: [usize; 2],
    },
    /// `x · weight + bias` over rows.
    Linear {
        /// Rows of `x`.
        rows: usize,
        /// Columns of `x`.
        input: usize,
        /// Columns of the result.
        output: usize,
    },
    /// Group normalisation over `[batch, channels, height, width]`.
    GroupNorm {
        /// Samples.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Groups of channels.
        groups: usize,
        /// Height and width.
        side: [usize; 2],
        /// Whether SiLU follows.
        silu: bool,
    },
    /// Layer normalisation of rows.
    LayerNorm {
        /// Rows.
        rows: usize,
        /// Columns, which are normalised.
        width: usize,
    },
    /// `softmax(q kᵀ / √width) v` over heads.
    Attention {
        /// Samples.
        batch: usize,
        /// Heads.
        heads: usize,
        /// Rows of `q`.
        queries: usize,
        /// Rows of `k` and `v`.
        keys: usize,
        /// Columns of a head.
        width: usize,
        /// Whether a query sees earlier keys only.
        causal: bool,
    },
    /// [`geglu`] of rows.
    Geglu {
        /// Rows.
        rows: usize,
        /// Columns of the result.
        width: usize,
    },
}

/// The distinct operations of a call of a network, each with how often it occurs.
pub type Operations = BTreeMap<Operation, usize>;

/// An input of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its shape.
    pub shape: Vec<usize>,
    /// The deviation of random values that keeps results near one.
    pub deviation: f64,
    /// The mean of random values.
    pub mean: f64,
}

impl Operation {
    /// Its inputs, data before parameters.
    pub fn inputs(&self) -> Vec<Input> {
        let normal = |shape: &[usize], deviation| Input { shape: shape.to_vec(), deviation, mean: 0.0 };
        let fan = |count: usize| (1.0 / count as f64).sqrt();
        let scale_and_shift =
            |width| [Input { shape: vec![width], deviation: 0.2, mean: 1.0 }, normal(&[width], 0.2)];
        match *self {
            Self::Convolution { batch, input, output, side: [height, width], kernel, .. } => vec![
                normal(&[batch, input, height, width], 1.0),
                normal(&[output, input, kernel, kernel], fan(input * kernel * kernel)),
                normal(&[output], 0.2),
            ],
            Self::Linear { rows, input, output } => vec![
                normal(&[rows, input], 1.0),
                normal(&[input, output], fan(input)),
                normal(&[output], 0.2),
            ],
            Self::GroupNorm { batch, channels, side: [height, width], .. } => {
                // Means far from zero are what a careless variance fails on.
                let x = Input { shape: vec![batch, channels, height, width], deviation: 1.0, mean: 2.0 };
                [x].into_iter().chain(scale_and_shift(channels)).collect()
            }
            Self::LayerNorm { rows, width } => {
                let x = Input { shape: vec![rows, width], deviation: 1.0, mean: 2.0 };
                [x].into_iter().chain(scale_and_shift(width)).collect()
            }
            Self::Attention { batch, heads, queries, keys, width, .. } => vec![
                normal(&[batch, queries, heads * width], 1.0),
                normal(&[batch, keys, heads * width], 1.0),
                normal(&[batch, keys, heads * width], 1.0),
            ],
            Self::Geglu { rows, width } => vec![normal(&[1, rows, 2 * width], 1.0)],
        }
    }

    /// Runs on flat inputs and gives the flat result. In half precision normalisations are computed in single, as
    /// the networks do.
    ///
    /// # Panics
    ///
    /// If the inputs are not those of [`Self::inputs`].
    pub fn apply(&self, inputs: &[Tensor<1>]) -> Tensor<1> {
        let shapes = self.inputs();
        assert_eq!(inputs.len(), shapes.len(), "{self} has {} inputs", shapes.len());
        let reshaped = |i: usize| (inputs[i].clone(), shapes[i].shape.clone());
        let two = |i| to::<2>(reshaped(i));
        let three = |i| to::<3>(reshaped(i));
        let four = |i| to::<4>(reshaped(i));
        let dtype = inputs[0].dtype();
        match *self {
            Self::Convolution { kernel: 3, stride: 1, padding: [1, 1], .. } => {
                convolution3(four(0), four(1), inputs[2].clone()).flatten(0, 3)
            }
            Self::Convolution { side, kernel, stride, padding: [before, after], .. } => {
                let mut x = four(0);
                let mut padding = before;
                if before != after {
                    x = x.pad((before, after, before, after), PadMode::Constant(0.0));
                    padding = 0;
                }
                assert!(side.iter().all(|side| side + before + after >= kernel), "{self} fits its input");
                let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
                conv2d(x, four(1), Some(inputs[2].clone()), options).flatten(0, 3)
            }
            Self::Linear { output, .. } => {
                let y = two(0).matmul(two(1)) + inputs[2].clone().reshape([1, output]);
                y.flatten(0, 1)
            }
            Self::GroupNorm { groups, silu, .. } => {
                let activation = if silu { Activation::Silu } else { Activation::Identity };
                let (gamma, beta) = (single(inputs[1].clone()), single(inputs[2].clone()));
                group_norm(single(four(0)), gamma, beta, groups, 1e-5, activation).flatten(0, 3).cast(dtype)
            }
            Self::LayerNorm { .. } => {
                let (gamma, beta) = (single(inputs[1].clone()), single(inputs[2].clone()));
                layer_norm(single(two(0)), gamma, Some(beta), 1e-5).flatten(0, 1).cast(dtype)
            }
            Self::Attention { heads, causal, .. } => {
                attention(three(0), three(1), three(2), heads, causal).flatten(0, 2)
            }
            Self::Geglu { .. } => geglu(three(0)).flatten(0, 2),
        }
    }

    /// Multiplications and additions of the products of matrices in it.
    pub fn flops(&self) -> f64 {
        let product = |sizes: &[usize]| 2.0 * sizes.iter().map(|size| *size as f64).product::<f64>();
        match *self {
            Self::Convolution { batch, input, output, side, kernel, stride, padding: [before, after] } => {
                let out = side.map(|side| (side + before + after - kernel) / stride + 1);
                product(&[batch, input, output, kernel, kernel, out[0], out[1]])
            }
            Self::Linear { rows, input, output } => product(&[rows, input, output]),
            Self::Attention { batch, heads, queries, keys, width, .. } => {
                2.0 * product(&[batch, heads, queries, keys, width])
            }
            Self::GroupNorm { .. } | Self::LayerNorm { .. } | Self::Geglu { .. } => 0.0,
        }
    }
}

fn to<const D: usize>((flat, shape): (Tensor<1>, Vec<usize>)) -> Tensor<D> {
    flat.reshape(<[usize; D]>::try_from(shape).expect("an input's shape has its rank"))
}

/// Half precision made single.
fn single<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if matches!(x.dtype(), DType::F16 | DType::BF16) { x.cast(FloatDType::F32) } else { x }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = |f: &mut fmt::Formatter<'_>, batch: usize| match batch {
            1 => Ok(()),
            _ => write!(f, ", batch {batch}"),
        };
        match *self {
            Self::Convolution { batch: n, input, output, side: [h, w], kernel, stride, padding } => {
                write!(f, "convolution {kernel}×{kernel}, {input} → {output} at {h}×{w}")?;
                if stride > 1 {
                    write!(f, ", stride {stride}")?;
                }
                if padding[0] != padding[1] {
                    write!(f, ", padded below and right")?;
                }
                batch(f, n)
            }
            Self::Linear { rows, input, output } => write!(f, "linear {input} → {output}, {rows} rows"),
            Self::GroupNorm { batch: n, channels, groups, side: [h, w], silu } => {
                let then = if silu { " + SiLU" } else { "" };
                write!(f, "group norm{then}, {channels} channels in {groups} groups at {h}×{w}")?;
                batch(f, n)
            }
            Self::LayerNorm { rows, width } => write!(f, "layer norm of {width}, {rows} rows"),
            Self::Attention { batch: n, heads, queries, keys, width, causal } => {
                let causal = if causal { "causal " } else { "" };
                write!(f, "{causal}attention of {queries} to {keys}, {heads} heads of {width}")?;
                batch(f, n)
            }
            Self::Geglu { rows, width } => write!(f, "GEGLU to {width}, {rows} rows"),
        }
    }
}
