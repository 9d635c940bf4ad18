//! The 3×3 convolution for the flex backend: forward and the gradient of its input by Winograd's algorithm or by direct
//! multiplication, whichever is faster for a shape; the gradient of its weight as nine products of matrices over shifted views.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Slice, Tensor, TensorData};
use rayon::prelude::*;

use crate::conv_loops::{BLOCK, Block, Planes, Run, SLACK, WeightLayout, convolve};
use crate::group_norm_flex::{on_flex, values};
use crate::scratch::Scratch;
use crate::winograd::{self, Shape};

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

/// Whether the fast body serves this tensor: f32 on flex.
pub(crate) fn supports(x: &Tensor<4>) -> bool {
    x.dtype() == DType::F32 && on_flex(x.device().as_dispatch())
}

pub(crate) fn convolution3(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::convolution3(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
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

/// Whether the fast body serves these: f32 on flex, not tracked, a shape for Winograd's algorithm.
pub(crate) fn supports_doubled(x: &Tensor<4>, weight: &Tensor<4>) -> bool {
    let [batch, channels, height, width] = x.dims();
    let shape = Shape { batch, channels, height: 2 * height, width: 2 * width, doubled: true };
    let some = batch * channels * height * width > 0;
    some && supports(x) && !x.is_autodiff() && !weight.is_autodiff() && shape.pays(weight.dims()[0])
}

pub(crate) fn doubled_convolution3(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::doubled_convolution3(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

impl DoubledConvolutionOps for Flex {
    fn doubled_convolution3(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let ([batch, channels, height, width], [outputs, ..]) = (dims(&x), dims(&weight));
        let shape = Shape { batch, channels, height: 2 * height, width: 2 * width, doubled: true };
        let layout = WeightLayout { output: 9 * channels, input: 9, reversed: false };
        let mut out = vec![0.0_f32; batch * outputs * shape.height * shape.width];
        winograd::convolve(values(&x), shape, (values(&weight), layout), values(&bias), &mut out);
        FlexTensor::from_data(TensorData::new(out, vec![batch, outputs, shape.height, shape.width]))
    }
}

/// Input floats that a tile of rows should not exceed: half of a usual second-level cache.
const TILE: usize = 1 << 17;
/// Multiplications below which another thread costs more than it saves.
const ALONE: usize = 1 << 18;

fn dims(tensor: &FlexTensor) -> [usize; 4] {
    let dims = tensor.layout().shape().as_slice();
    [dims[0], dims[1], dims[2], dims[3]]
}

/// A sample's planes with one zero around, channel after channel.
fn padded(x: &[f32], out: &mut [f32], [height, width]: [usize; 2]) {
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
    (weights, layout): (&[f32], WeightLayout),
    bias: &[f32],
) -> FlexTensor {
    let [batch, channels, height, width] = dims(x);
    let (pitch, area) = (width + 2, height * width);
    let plane = (height + 2) * pitch;
    let shape = vec![batch, outputs, height, width];
    let mut out = vec![0.0_f32; batch * outputs * area];
    if out.is_empty() || channels == 0 {
        return FlexTensor::from_data(TensorData::new(out, shape));
    }
    let source = values(x);
    let all = Shape { batch, channels, height, width, doubled: false };
    if all.pays(outputs) {
        winograd::convolve(source, all, (weights, layout), &bias[..outputs], &mut out);
        return FlexTensor::from_data(TensorData::new(out, shape));
    }
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
    FlexTensor::from_data(TensorData::new(out, shape))
}

impl ConvolutionOps for Flex {
    fn convolution3(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let [outputs, inputs, ..] = dims(&weight);
        let layout = WeightLayout { output: 9 * inputs, input: 9, reversed: false };
        convolved(&x, outputs, (values(&weight), layout), values(&bias))
    }

    fn convolution3_of_input(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (weight, grad) = (weight.to_contiguous(), grad.to_contiguous());
        let [_, inputs, ..] = dims(&weight);
        // The same convolution with the weights turned round, and the channels' parts exchanged.
        let layout = WeightLayout { output: 9, input: 9 * inputs, reversed: true };
        convolved(&grad, inputs, (values(&weight), layout), &vec![0.0; inputs])
    }

    fn convolution3_of_weight(x: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let ([batch, inputs, height, width], [_, outputs, ..]) = (dims(&x), dims(&grad));
        let (pitch, area) = (width + 2, height * width);
        let plane = (height + 2) * pitch;
        let len = batch * plane;
        let shift = 2 * pitch + 2;
        // Channel by channel, the samples behind each other: `[inputs, batch · plane]` with room for the shifts.
        let mut wide = vec![0.0_f32; inputs * (len + shift)];
        let source = values(&x);
        wide.par_chunks_mut(len + shift).enumerate().for_each(|(c, out)| {
            for (sample, out) in out[..len].chunks_exact_mut(plane).enumerate() {
                padded(&source[(sample * inputs + c) * area..][..area], out, [height, width]);
            }
        });
        // The output's gradient on the same grid, zero where there is no output.
        let mut spread = vec![0.0_f32; outputs * len];
        let mut of_bias = vec![0.0_f32; outputs];
        let source = values(&grad);
        spread.par_chunks_mut(len).zip(of_bias.par_iter_mut()).enumerate().for_each(|(o, (out, sum))| {
            let mut total = 0.0_f64;
            for (sample, out) in out.chunks_exact_mut(plane).enumerate() {
                let grad = &source[(sample * outputs + o) * area..][..area];
                total += grad.iter().map(|v| f64::from(*v)).sum::<f64>();
                for (row, out) in grad.chunks_exact(width).zip(out.chunks_exact_mut(pitch)) {
                    out[..width].copy_from_slice(row);
                }
            }
            *sum = total as f32;
        });
        let wide = FlexTensor::from_data(TensorData::new(wide, vec![inputs, len + shift]));
        let spread = FlexTensor::from_data(TensorData::new(spread, vec![outputs, len]));
        let products: Vec<FlexTensor> = (0..9)
            .into_par_iter()
            .map(|k| {
                let offset = (k / 3 * pitch + k % 3) as isize;
                let rows = Slice::from(0..inputs as isize);
                let columns = Slice::from(offset..offset + len as isize);
                let view = Flex::float_slice(wide.clone(), &[rows, columns]);
                Flex::float_matmul(spread.clone(), Flex::float_transpose(view)).to_contiguous()
            })
            .collect();
        let mut weight = vec![0.0_f32; outputs * inputs * 9];
        for (k, product) in products.iter().enumerate() {
            for (nine, value) in weight.chunks_exact_mut(9).zip(values(product)) {
                nine[k] = *value;
            }
        }
        let weight = FlexTensor::from_data(TensorData::new(weight, vec![outputs, inputs, 3, 3]));
        (weight, FlexTensor::from_data(TensorData::new(of_bias, vec![outputs])))
    }
}

#[derive(Debug)]
struct ConvolutionBackward;

impl<B: ConvolutionOps> Backward<B, 3> for ConvolutionBackward {
    type State = (NodeId, NodeId);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(x);
        let weight = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(weight);
        if let Some(node) = node_x {
            grads.register::<B>(node.id, B::convolution3_of_input(weight, grad.clone()));
        }
        if node_weight.is_none() && node_bias.is_none() {
            return; // a frozen layer
        }
        let (of_weight, of_bias) = B::convolution3_of_weight(x, grad);
        for (node, grad) in [(node_weight, of_weight), (node_bias, of_bias)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

impl<B: ConvolutionOps, C: CheckpointStrategy> ConvolutionOps for Autodiff<B, C> {
    fn convolution3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match ConvolutionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight));
                let out = B::convolution3(x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolution3(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
            )),
        }
    }

    fn convolution3_of_input(_weight: FloatTensor<Self>, _grad: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of a convolution is not differentiable: burn's autodiff is first order");
    }

    fn convolution3_of_weight(
        _x: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a convolution is not differentiable: burn's autodiff is first order");
    }
}
