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
use crate::group_norm_loops::{Affine, Gradient, backward_group, forward_group};

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

pub(crate) fn on_flex(device: &DispatchDevice) -> bool {
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
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    let len = tensor.layout().num_elements();
    &tensor.storage::<f32>()[start..start + len]
}
