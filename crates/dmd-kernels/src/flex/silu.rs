//! [`silu`] for the flex backend: one vectorised pass each way, the gradient by recomputation.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::instructions::vectorised;
use super::mathematics::sigmoid;
use super::recompute::{Recomputed, second_order, tracked};
use super::tensors::{is_served, tensor, unwritten, values};

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The activation as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait SiluOps: Backend {
    /// `x · sigmoid(x)`.
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of `x`, given the output's.
    fn silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// [`crate::silu`], where the tensor is on flex in a float type that is served.
pub(crate) fn silu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    is_served(x).then(|| Tensor::from_dispatch(Dispatch::silu(x.clone().into_dispatch())))
}

/// `out[i] = f(a[i], b[i])`, vectorised, chunks in parallel.
fn apply(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let mut out = unwritten(a.len());
    let chunk = |((out, a), b): ((&mut [f32], &[f32]), &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = f(*a, *b);
                }
            },
        );
    };
    match a.len() <= CHUNK {
        true => chunk(((&mut out, a), b)),
        false => out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(chunk),
    }
    out
}

fn like(x: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    tensor(values, x.layout().shape().as_slice())
}

impl SiluOps for Flex {
    fn silu(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let out = apply(
            values(&x),
            values(&x),
            #[inline(always)]
            |x, _| x * sigmoid(x),
        );
        like(&x, out)
    }

    fn silu_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let out = apply(
            values(&x),
            values(&grad),
            #[inline(always)]
            |x, grad| {
                let s = sigmoid(x);
                grad * s * (1.0 + x * (1.0 - s))
            },
        );
        like(&x, out)
    }
}

#[derive(Debug, Clone)]
struct Silu;

impl<B: SiluOps> Recomputed<B, 1> for Silu {
    fn forward(&self, [x]: [FloatTensor<B>; 1]) -> FloatTensor<B> {
        B::silu(x)
    }

    fn backward(
        &self,
        [x]: [FloatTensor<B>; 1],
        gradient: FloatTensor<B>,
        _: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::silu_backward(x, gradient))]
    }
}

impl<B: SiluOps, C: CheckpointStrategy> SiluOps for Autodiff<B, C> {
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, C, _, 1>(Silu, [x])
    }

    fn silu_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        second_order("silu")
    }
}
