//! [`group_norm`] for the flex backend: statistics and application in two passes over each group,
//! groups in parallel, and the gradient by recomputation, so that only `x` is kept for it.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::Activation;

/// Group normalisation as an operation of a backend. `silu` is 1 when SiLU follows, else 0.
#[backend_extension(Flex, Autodiff)]
pub trait GroupNormOps: Backend {
    /// The normalised, activated tensor.
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        silu: usize,
    ) -> FloatTensor<Self>;

    /// Gradients of `x`, `gamma` and `beta`, given the output's.
    fn group_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        silu: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Whether the fast body serves this tensor: f32 on flex.
pub(crate) fn supports(x: &Tensor<4>) -> bool {
    x.dtype() == DType::F32 && on_flex(x.device().as_dispatch())
}

fn on_flex(device: &DispatchDevice) -> bool {
    if let DispatchDevice::Autodiff(inner) = device {
        on_flex(inner)
    } else {
        matches!(device, DispatchDevice::Flex(_))
    }
}

pub(crate) fn group_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    let silu = usize::from(activation == Activation::Silu);
    Tensor::from_dispatch(Dispatch::group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        groups,
        epsilon,
        silu,
    ))
}

impl GroupNormOps for Flex {
    fn group_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        groups: usize,
        epsilon: f64,
        silu: usize,
    ) -> FlexTensor {
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        let geometry = Geometry::of(&x, groups);
        let mut out = vec![0.0; geometry.numel()];
        let source = values(&x);
        out.par_chunks_mut(geometry.group_len())
            .zip(source.par_chunks(geometry.group_len()))
            .enumerate()
            .for_each(|(index, (out, x))| {
                let channels = geometry.channels_of(index);
                forward_group(
                    x,
                    out,
                    &values(&gamma)[channels.clone()],
                    &values(&beta)[channels],
                    epsilon,
                    silu == 1,
                );
            });
        FlexTensor::from_data(TensorData::new(out, geometry.shape.to_vec()))
    }

    fn group_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        grad: FlexTensor,
        groups: usize,
        epsilon: f64,
        silu: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        let grad = grad.to_contiguous();
        let geometry = Geometry::of(&x, groups);
        let [batch, channels, ..] = geometry.shape;
        let mut grad_x = vec![0.0; geometry.numel()];
        // One row per sample, added up afterwards.
        let mut grad_gamma = vec![0.0_f32; batch * channels];
        let mut grad_beta = vec![0.0_f32; batch * channels];
        let len = geometry.group_len();
        let per_group = channels / groups;
        grad_x
            .par_chunks_mut(len)
            .zip(grad_gamma.par_chunks_mut(per_group))
            .zip(grad_beta.par_chunks_mut(per_group))
            .enumerate()
            .for_each(|(index, ((grad_x, grad_gamma), grad_beta))| {
                let channels = geometry.channels_of(index);
                let at = index * len..(index + 1) * len;
                let affine = Affine {
                    gamma: &values(&gamma)[channels.clone()],
                    beta: &values(&beta)[channels],
                    silu: silu == 1,
                };
                backward_group(
                    &values(&x)[at.clone()],
                    &values(&grad)[at],
                    &affine,
                    epsilon,
                    Gradient { x: grad_x, gamma: grad_gamma, beta: grad_beta },
                );
            });
        let total = |rows: Vec<f32>| {
            let mut sum = vec![0.0_f64; channels];
            for row in rows.chunks(channels) {
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += f64::from(*value);
                }
            }
            let sum: Vec<f32> = sum.into_iter().map(|v| v as f32).collect();
            FlexTensor::from_data(TensorData::new(sum, [channels]))
        };
        (
            FlexTensor::from_data(TensorData::new(grad_x, geometry.shape.to_vec())),
            total(grad_gamma),
            total(grad_beta),
        )
    }
}

#[derive(Debug)]
struct GroupNormBackward;

impl<B: GroupNormOps> Backward<B, 3> for GroupNormBackward {
    type State = (
        burn::backend::autodiff::NodeId,
        burn::backend::autodiff::NodeId,
        burn::backend::autodiff::NodeId,
        usize,
        f64,
        usize,
    );

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node_x, node_gamma, node_beta] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, gamma, beta, groups, epsilon, silu) = ops.state;
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(x);
        let gamma = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(gamma);
        let beta = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(beta);
        let (grad_x, grad_gamma, grad_beta) =
            B::group_norm_backward(x, gamma, beta, grad, groups, epsilon, silu);
        for (node, grad) in [(node_x, grad_x), (node_gamma, grad_gamma), (node_beta, grad_beta)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

impl<B: GroupNormOps, C: CheckpointStrategy> GroupNormOps for Autodiff<B, C> {
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        silu: usize,
    ) -> FloatTensor<Self> {
        match GroupNormBackward.prepare::<C>([x.node(), gamma.node(), beta.node()]).compute_bound().stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (
                    prep.checkpoint(&x),
                    prep.checkpoint(&gamma),
                    prep.checkpoint(&beta),
                    groups,
                    epsilon,
                    silu,
                );
                let out = B::group_norm(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    groups,
                    epsilon,
                    silu,
                );
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::group_norm(
                x.into_primitive(),
                gamma.into_primitive(),
                beta.into_primitive(),
                groups,
                epsilon,
                silu,
            )),
        }
    }

    fn group_norm_backward(
        _x: FloatTensor<Self>,
        _gamma: FloatTensor<Self>,
        _beta: FloatTensor<Self>,
        _grad: FloatTensor<Self>,
        _groups: usize,
        _epsilon: f64,
        _silu: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of group_norm is not differentiable: burn's autodiff is first order");
    }
}

/// Where the groups of a contiguous `[batch, channels, height, width]` lie.
struct Geometry {
    shape: [usize; 4],
    groups: usize,
}

impl Geometry {
    fn of(x: &FlexTensor, groups: usize) -> Self {
        let dims = x.layout().shape().as_slice();
        Self { shape: [dims[0], dims[1], dims[2], dims[3]], groups }
    }

    fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    fn group_len(&self) -> usize {
        self.shape[1] / self.groups * self.shape[2] * self.shape[3]
    }

    /// The channels of the group with this running index (sample-major).
    fn channels_of(&self, index: usize) -> std::ops::Range<usize> {
        let per_group = self.shape[1] / self.groups;
        let group = index % self.groups;
        group * per_group..(group + 1) * per_group
    }
}

/// The elements of a contiguous f32 tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    let len = tensor.layout().num_elements();
    &tensor.storage::<f32>()[start..start + len]
}

struct Affine<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    silu: bool,
}

struct Gradient<'a> {
    x: &'a mut [f32],
    gamma: &'a mut [f32],
    beta: &'a mut [f32],
}

const LANES: usize = 16;

/// Sum of `f(value)` in sixteen running sums, added up in f64.
#[inline(always)]
fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(f(*v))).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    rest + lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>()
}

/// Sums of `a` and of `a · b`, likewise.
#[inline(always)]
fn sum_and_dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut sums, mut dots) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest_a = a_chunks.remainder();
    let rest_b = b_chunks.remainder();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane];
            dots[lane] += a[lane] * b[lane];
        }
    }
    let mut sum: f64 = sums.iter().map(|v| f64::from(*v)).sum();
    let mut dot: f64 = dots.iter().map(|v| f64::from(*v)).sum();
    for (a, b) in rest_a.iter().zip(rest_b) {
        sum += f64::from(*a);
        dot += f64::from(*a * *b);
    }
    (sum, dot)
}

/// Mean and reciprocal standard deviation of a group.
#[inline(always)]
fn statistics(x: &[f32], epsilon: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (sum_of(x, |v| v) / n) as f32;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / n;
    (mean, (1.0 / (variance + epsilon).sqrt()) as f32)
}

/// `1 / (1 + exp(−x))` without branches, so that the compiler vectorises it. The exponential is
/// the usual reduction to `[−ln 2 / 2, ln 2 / 2]` with Cephes' degree-6 polynomial: relative
/// error below 2e-7 over the clamped range.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let v = (-x).clamp(-87.0, 87.0);
    let shifted = v * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = v - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let exp = p * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    1.0 / (1.0 + exp * scale)
}

fn forward_group(x: &[f32], out: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f64, silu: bool) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (mean, rstd) = statistics(x, epsilon);
            let positions = x.len() / gamma.len();
            for (c, (x, out)) in x.chunks_exact(positions).zip(out.chunks_exact_mut(positions)).enumerate() {
                let scale = rstd * gamma[c];
                let shift = beta[c] - mean * scale;
                if silu {
                    for (out, x) in out.iter_mut().zip(x) {
                        let z = x * scale + shift;
                        *out = z * sigmoid(z);
                    }
                } else {
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = x * scale + shift;
                    }
                }
            }
        },
    );
}

fn backward_group(x: &[f32], grad: &[f32], affine: &Affine<'_>, epsilon: f64, out: Gradient<'_>) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let (mean, rstd) = statistics(x, epsilon);
            let positions = x.len() / affine.gamma.len();
            // Means over the group of the gradient of the normalised value, and of its product with it.
            let (mut mean_grad, mut mean_dot) = (0.0_f64, 0.0_f64);
            for (c, (x, grad)) in x.chunks_exact(positions).zip(grad.chunks_exact(positions)).enumerate() {
                let gamma = affine.gamma[c];
                let scale = rstd * gamma;
                let shift = affine.beta[c] - mean * scale;
                let grad_z = &mut out.x[c * positions..(c + 1) * positions];
                if affine.silu {
                    for ((g, x), grad) in grad_z.iter_mut().zip(x).zip(grad) {
                        let z = x * scale + shift;
                        let s = sigmoid(z);
                        *g = grad * (s + z * s * (1.0 - s));
                    }
                } else {
                    grad_z.copy_from_slice(grad);
                }
                let (sum, dot_x) = sum_and_dot(grad_z, x);
                let dot = (dot_x - sum * f64::from(mean)) * f64::from(rstd);
                out.gamma[c] = dot as f32;
                out.beta[c] = sum as f32;
                mean_grad += sum * f64::from(gamma);
                mean_dot += dot * f64::from(gamma);
            }
            let n = x.len() as f64;
            let (mean_grad, mean_dot) = ((mean_grad / n) as f32, (mean_dot / n) as f32);
            for (c, x) in x.chunks_exact(positions).enumerate() {
                let gamma = affine.gamma[c];
                for (g, x) in out.x[c * positions..].iter_mut().zip(x) {
                    let normal = (x - mean) * rstd;
                    *g = rstd * (*g * gamma - mean_grad - normal * mean_dot);
                }
            }
        },
    );
}
