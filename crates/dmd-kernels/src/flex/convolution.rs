//! The 3×3 convolution for the flex backend: forward and the gradient of its input by Winograd's algorithm or by direct
//! multiplication, whichever is faster for a shape; the gradient of its weight as sums over shifted views.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::columns::convolution_by_columns;
use super::direct_loops::{BLOCK, Block, Planes, Run, SLACK, WeightLayout, convolve};
use super::instructions::multiplies_bf16;
use super::recompute::{Recomputed, second_order, tracked};
use super::scratch::Scratch;
use super::stored::{Stored, is_read};
use super::tensors::{dims, is_served, is_single, tensor, unwritten, values};
use super::weight_gradient::gradients;
use super::winograd::{self, Shape};
use crate::low_rank::of_type;

/// A 3×3 convolution of stride 1 with one zero around, as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait ConvolutionOps: Backend {
    /// `[batch, output, height, width]` of `x: [batch, input, height, width]`, `weight: [output, input, 3, 3]` and
    /// `bias: [output]`.
    fn convolution3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The gradient of `x`, given the output's.
    fn convolution3_of_input(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradients of `weight` and `bias`, given the output's.
    fn convolution3_of_weight(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Pixels up to which a convolution with a weight in bf16 is a product in bf16, where the processor has them: Winograd's algorithm, which
/// is computed in single precision, then has too few tiles for its weights. (1280 channels, Zen 5: 8×8 pixels in 3.2 ms instead of 8.2.)
const FEW_PIXELS: usize = 256;

/// Whether a 3×3 convolution is one product in bf16.
pub(super) fn is_one_product(shape: Shape, weight: &Tensor<4>) -> bool {
    let pixels = shape.batch * shape.height * shape.width;
    weight.dtype() == DType::BF16 && pixels <= FEW_PIXELS && multiplies_bf16()
}

/// [`crate::convolution3`], where the tensor is on flex in a float type that is served.
pub(crate) fn convolution3(x: &Tensor<4>, weight: &Tensor<4>, bias: &Tensor<1>) -> Option<Tensor<4>> {
    let [batch, channels, height, width] = x.dims();
    if is_one_product(Shape { batch, channels, height, width, doubled: false }, weight) {
        let found = convolution_by_columns(x, weight, Some(bias), 1, [1, 1]);
        if found.is_some() {
            return found;
        }
    }
    is_served(x).then(|| {
        // A weight in half precision is read where it is used; what is tracked has one type.
        let tracked = x.is_autodiff() || weight.is_autodiff();
        let as_stored = !tracked && is_single(x) && is_read(weight.dtype());
        let weight = if as_stored { weight.clone() } else { of_type(x.dtype(), weight.clone()) };
        let [x, bias] = [x.clone().into_dispatch(), bias.clone().into_dispatch()];
        Tensor::from_dispatch(Dispatch::convolution3(x, weight.into_dispatch(), bias))
    })
}

/// The convolution of doubled input, as an operation of a backend. It is not differentiable.
#[backend_extension(Flex)]
pub trait DoubledConvolutionOps: Backend {
    /// As [`ConvolutionOps::convolution3`], with every value of `x` standing for 2×2.
    fn doubled_convolution3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The convolution of doubled input, where the tensor is in single precision on flex, nothing is tracked, and
/// Winograd's algorithm pays for the shape.
pub(crate) fn doubled_convolution3(x: &Tensor<4>, weight: &Tensor<4>, bias: &Tensor<1>) -> Option<Tensor<4>> {
    let [batch, channels, height, width] = x.dims();
    let shape = Shape { batch, channels, height: 2 * height, width: 2 * width, doubled: true };
    let some = batch * channels * height * width > 0;
    let plain = is_single(x) && !x.is_autodiff() && !weight.is_autodiff() && is_read(weight.dtype());
    let pays = shape.pays(weight.dims()[0]) && !is_one_product(shape, weight);
    (some && plain && pays).then(|| {
        let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::doubled_convolution3(x, weight, bias.clone().into_dispatch()))
    })
}

impl DoubledConvolutionOps for Flex {
    fn doubled_convolution3(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let ([batch, channels, height, width], [outputs, ..]): ([usize; 4], [usize; 4]) =
            (dims(&x), dims(&weight));
        let shape = Shape { batch, channels, height: 2 * height, width: 2 * width, doubled: true };
        let layout = WeightLayout { output: 9 * channels, input: 9, reversed: false };
        let mut out = unwritten(batch * outputs * shape.height * shape.width);
        winograd::convolve(
            values(&x),
            shape,
            None,
            (Stored::of(&weight), layout),
            values(&bias),
            false,
            &mut out,
        );
        tensor(out, [batch, outputs, shape.height, shape.width])
    }
}

/// Input floats that a tile of rows should not exceed: half of a usual second-level cache.
const TILE: usize = 1 << 17;
/// Multiplications below which another thread costs more than it saves.
const ALONE: usize = 1 << 18;

/// A sample's planes with one zero around, channel after channel.
pub(super) fn padded(x: &[f32], out: &mut [f32], [height, width]: [usize; 2]) {
    let pitch = width + 2;
    let plane = (height + 2) * pitch;
    out.fill(0.0);
    for (x, out) in x.chunks_exact(height * width).zip(out.chunks_exact_mut(plane)) {
        let inner = out[pitch..].chunks_exact_mut(pitch);
        for (row, out) in x.chunks_exact(width).zip(inner) {
            out[1..=width].copy_from_slice(row);
        }
    }
}

/// The convolution of contiguous `x` with weights that lie as `layout` says.
fn convolved(
    x: &FlexTensor,
    outputs: usize,
    (weights, layout): (Stored<'_>, WeightLayout),
    bias: &[f32],
) -> FlexTensor {
    let [batch, channels, height, width]: [usize; 4] = dims(x);
    let (pitch, area) = (width + 2, height * width);
    let plane = (height + 2) * pitch;
    let shape = [batch, outputs, height, width];
    if area == 0 || channels == 0 {
        return tensor(vec![0.0; batch * outputs * area], shape);
    }
    let mut out = unwritten(batch * outputs * area);
    if out.is_empty() {
        return tensor(out, shape);
    }
    let source = values(x);
    let all = Shape { batch, channels, height, width, doubled: false };
    if all.pays(outputs) {
        winograd::convolve(source, all, None, (weights, layout), &bias[..outputs], false, &mut out);
        return tensor(out, shape);
    }
    let weights = weights.single();
    let work = batch * outputs * area * channels * 9;
    let sample = channels * plane + SLACK;
    let mut inputs = Scratch::new(batch * sample);
    let copy = |(x, out): (&[f32], &mut [f32])| padded(x, out, [height, width]);
    match work < ALONE {
        true => source.chunks(channels * area).zip(inputs.chunks_mut(sample)).for_each(copy),
        false => source.par_chunks(channels * area).zip(inputs.par_chunks_mut(sample)).for_each(copy),
    }

    // Equal blocks of output channels, and tiles of rows whose input stays in a core's cache.
    let blocks = outputs.div_ceil(BLOCK);
    let rows = (TILE / (channels * pitch)).clamp(1, height);
    let tiles = height.div_ceil(rows);
    let start = |block: usize| block * outputs / blocks;
    let mut parts: Vec<Vec<&mut [f32]>> = (0..batch * tiles * blocks).map(|_| Vec::new()).collect();
    for (i, plane) in out.chunks_mut(area).enumerate() {
        let (sample, channel) = (i / outputs, i % outputs);
        let block = (0..blocks).rfind(|block| start(*block) <= channel).unwrap_or(0);
        for (tile, part) in plane.chunks_mut(rows * width).enumerate() {
            parts[(sample * tiles + tile) * blocks + block].push(part);
        }
    }
    let run = |(i, mut parts): (usize, Vec<&mut [f32]>)| {
        let (tile, block) = (i / blocks % tiles, i % blocks);
        let first = tile * rows;
        let count = rows.min(height - first);
        let values = &inputs[i / blocks / tiles * sample..][..sample];
        let x = Planes { values, channels, plane, pitch };
        let (weights, bias) = (&weights[start(block) * layout.output..], &bias[start(block)..]);
        if width.is_multiple_of(16) {
            // Rows are whole vectors: they are written where they belong.
            let runs: Vec<Run> = (0..count)
                .map(|row| Run { from: (first + row) * pitch, to: row * width, len: width })
                .collect();
            convolve(Block { x, weights, layout, runs: &runs, outputs: &mut parts, bias });
            return;
        }
        // All rows with the zeros between them are one run; the zeros' places are left behind.
        let len = count * pitch - 2;
        let mut whole = vec![0.0_f32; parts.len() * (len + SLACK)];
        let mut outputs: Vec<&mut [f32]> = whole.chunks_mut(len + SLACK).collect();
        let runs = [Run { from: first * pitch, to: 0, len }];
        convolve(Block { x, weights, layout, runs: &runs, outputs: &mut outputs, bias });
        for (part, output) in parts.iter_mut().zip(outputs) {
            for (row, output) in part.chunks_exact_mut(width).zip(output.chunks(pitch)) {
                row.copy_from_slice(&output[..width]);
            }
        }
    };
    match work < ALONE {
        true => parts.into_iter().enumerate().for_each(run),
        false => parts.into_par_iter().enumerate().for_each(run),
    }
    tensor(out, shape)
}

impl ConvolutionOps for Flex {
    fn convolution3(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let [outputs, inputs, ..]: [usize; 4] = dims(&weight);
        let layout = WeightLayout { output: 9 * inputs, input: 9, reversed: false };
        convolved(&x, outputs, (Stored::of(&weight), layout), values(&bias))
    }

    fn convolution3_of_input(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (weight, grad) = (weight.to_contiguous(), grad.to_contiguous());
        let [_, inputs, ..]: [usize; 4] = dims(&weight);
        // The same convolution with the weights turned round, and the channels' parts exchanged.
        let layout = WeightLayout { output: 9, input: 9 * inputs, reversed: true };
        convolved(&grad, inputs, (Stored::of(&weight), layout), &vec![0.0; inputs])
    }

    fn convolution3_of_weight(x: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        gradients(&x.to_contiguous(), &grad.to_contiguous())
    }
}

#[derive(Debug, Clone)]
struct Convolution;

impl<B: ConvolutionOps> Recomputed<B, 3> for Convolution {
    fn forward(&self, [x, weight, bias]: [FloatTensor<B>; 3]) -> FloatTensor<B> {
        B::convolution3(x, weight, bias)
    }

    fn backward(
        &self,
        [x, weight, _]: [FloatTensor<B>; 3],
        gradient: FloatTensor<B>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let of_x = wanted[0].then(|| B::convolution3_of_input(weight, gradient.clone()));
        if !wanted[1] && !wanted[2] {
            return [of_x, None, None]; // a frozen layer
        }
        let (of_weight, of_bias) = B::convolution3_of_weight(x, gradient);
        [of_x, Some(of_weight), Some(of_bias)]
    }
}

impl<B: ConvolutionOps, C: CheckpointStrategy> ConvolutionOps for Autodiff<B, C> {
    fn convolution3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        tracked::<B, C, _, 3>(Convolution, [x, weight, bias])
    }

    fn convolution3_of_input(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        second_order("a convolution")
    }

    fn convolution3_of_weight(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        second_order("a convolution")
    }
}
