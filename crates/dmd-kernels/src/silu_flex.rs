//! [`silu`] for the flex backend: one vectorised pass each way, the gradient by recomputation.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::group_norm_flex::{on_flex, values};
use crate::group_norm_loops::sigmoid;

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

/// Whether the fast body serves this tensor: f32 on flex.
pub(crate) fn supports<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && on_flex(x.device().as_dispatch())
}

pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::silu(x.into_dispatch()))
}

/// `out[i] = f(a[i], b[i])`, vectorised, chunks in parallel.
fn apply(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let mut out = vec![0.0_f32; a.len()];
    let chunk = |((out, a), b): ((&mut [f32], &[f32]), &[f32])| {
        pulp::Arch::new().dispatch(
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
    FlexTensor::from_data(TensorData::new(values, x.layout().shape().as_slice().to_vec()))
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

#[derive(Debug)]
struct SiluBackward;

impl<B: SiluOps> Backward<B, 1> for SiluBackward {
    type State = NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(ops.state);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::silu_backward(x, grad));
        }
    }
}

impl<B: SiluOps, C: CheckpointStrategy> SiluOps for Autodiff<B, C> {
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match SiluBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, B::silu(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::silu(x.into_primitive())),
        }
    }

    fn silu_backward(_x: FloatTensor<Self>, _grad: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of silu is not differentiable: burn's autodiff is first order");
    }
}
