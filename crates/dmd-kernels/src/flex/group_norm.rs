//! [`group_norm`] for the flex backend: statistics and application in two passes over each group,
//! groups in parallel, and the gradient by recomputation, so that only `x` is kept for it.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::group_norm_loops::{Affine, Gradient, Normal, backward_group, forward_group, normals};
use super::recompute::{Recomputed, second_order, tracked};
use super::tensors::{dims, is_served, tensor, unwritten, values};
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

/// [`crate::group_norm`], where the tensor is on flex in a float type that is served.
pub(crate) fn group_norm(
    x: &Tensor<4>,
    [gamma, beta]: [&Tensor<1>; 2],
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Option<Tensor<4>> {
    let silu = usize::from(activation == Activation::Silu);
    is_served(x).then(|| {
        let [gamma, beta] = [gamma, beta].map(|parameter| parameter.clone().into_dispatch());
        let x = x.clone().into_dispatch();
        Tensor::from_dispatch(Dispatch::group_norm(x, gamma, beta, groups, epsilon, silu))
    })
}

/// What a normalisation makes of each channel of each sample of contiguous tensors.
pub(super) fn normals_of(
    x: &FlexTensor,
    [gamma, beta]: [&FlexTensor; 2],
    groups: usize,
    epsilon: f64,
    silu: bool,
) -> Vec<Normal> {
    let geometry = Geometry::of(x, groups);
    let [batch, channels, ..] = geometry.shape;
    let mut out = vec![Normal::default(); batch * channels];
    let each = out.par_chunks_mut(channels / groups).zip(values(x).par_chunks(geometry.group_len()));
    each.enumerate().for_each(|(index, (out, x))| {
        let channels = geometry.channels_of(index);
        let [gamma, beta] = [gamma, beta].map(|parameter| &values(parameter)[channels.clone()]);
        normals(x, &Affine { gamma, beta, silu }, epsilon, out);
    });
    out
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
        let mut out = unwritten(geometry.numel());
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
        tensor(out, geometry.shape)
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
            tensor(sum, [channels])
        };
        (tensor(grad_x, geometry.shape), total(grad_gamma), total(grad_beta))
    }
}

#[derive(Debug, Clone)]
struct GroupNorm {
    groups: usize,
    epsilon: f64,
    silu: usize,
}

impl<B: GroupNormOps> Recomputed<B, 3> for GroupNorm {
    fn forward(&self, [x, gamma, beta]: [FloatTensor<B>; 3]) -> FloatTensor<B> {
        B::group_norm(x, gamma, beta, self.groups, self.epsilon, self.silu)
    }

    fn backward(
        &self,
        [x, gamma, beta]: [FloatTensor<B>; 3],
        gradient: FloatTensor<B>,
        _: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let Self { groups, epsilon, silu } = *self;
        let (x, gamma, beta) = B::group_norm_backward(x, gamma, beta, gradient, groups, epsilon, silu);
        [x, gamma, beta].map(Some)
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
        tracked::<B, C, _, 3>(GroupNorm { groups, epsilon, silu }, [x, gamma, beta])
    }

    fn group_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: usize,
        _: f64,
        _: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        second_order("group_norm")
    }
}

/// Where the groups of a contiguous `[batch, channels, height, width]` lie.
struct Geometry {
    shape: [usize; 4],
    groups: usize,
}

impl Geometry {
    fn of(x: &FlexTensor, groups: usize) -> Self {
        Self { shape: dims(x), groups }
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
