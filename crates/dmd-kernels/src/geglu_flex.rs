//! [`geglu`] for the flex backend: one pass, rows in parallel, the gradient by recomputation.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::group_norm_flex::{on_flex, values};
use crate::group_norm_loops::exponential;

/// Rows that one thread takes at a time hold about so many values.
const CHUNK: usize = 1 << 14;

/// The gated feed-forward as an operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait GegluOps: Backend {
    /// `h · gelu(g)` of the halves of the last axis.
    fn geglu(both: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradient of `both`, given the output's.
    fn geglu_backward(both: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Whether the fast body serves this tensor: f32 on flex.
pub(crate) fn supports(x: &Tensor<3>) -> bool {
    x.dtype() == DType::F32 && on_flex(x.device().as_dispatch())
}

pub(crate) fn geglu(both: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::geglu(both.into_dispatch()))
}

/// `(1 + erf(x / √2)) / 2` and the normal density at `x`. Abramowitz and Stegun's 7.1.26: off by at most 1.5e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let half = exponential(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut p = 1.061_405_4_f32;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * half;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, half * 0.398_942_3)
}

fn forward_rows(both: &[f32], out: &mut [f32], width: usize) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (both, out) in both.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
                let (hidden, gate) = both.split_at(width);
                for ((out, h), g) in out.iter_mut().zip(hidden).zip(gate) {
                    *out = h * g * normal(*g).0;
                }
            }
        },
    );
}

fn backward_rows(both: &[f32], grad: &[f32], out: &mut [f32], width: usize) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let rows = both.chunks_exact(2 * width).zip(grad.chunks_exact(width));
            for ((both, grad), out) in rows.zip(out.chunks_exact_mut(2 * width)) {
                let (hidden, gate) = both.split_at(width);
                let (of_hidden, of_gate) = out.split_at_mut(width);
                for i in 0..width {
                    let (below, density) = normal(gate[i]);
                    of_hidden[i] = grad[i] * gate[i] * below;
                    of_gate[i] = grad[i] * hidden[i] * (below + gate[i] * density);
                }
            }
        },
    );
}

/// `[batch, rows, 2 · width]` of a tensor, and how many rows a thread takes.
fn geometry(both: &FlexTensor) -> ([usize; 3], usize) {
    let dims = both.layout().shape().as_slice();
    let shape = [dims[0], dims[1], dims[2]];
    (shape, (CHUNK / shape[2].max(1)).max(1))
}

impl GegluOps for Flex {
    fn geglu(both: FlexTensor) -> FlexTensor {
        let both = both.to_contiguous();
        let ([batch, rows, columns], chunk) = geometry(&both);
        let width = columns / 2;
        let mut out = vec![0.0; batch * rows * width];
        if width > 0 {
            let source = values(&both).par_chunks(chunk * columns);
            out.par_chunks_mut(chunk * width)
                .zip(source)
                .for_each(|(out, both)| forward_rows(both, out, width));
        }
        FlexTensor::from_data(TensorData::new(out, vec![batch, rows, width]))
    }

    fn geglu_backward(both: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let (both, grad) = (both.to_contiguous(), grad.to_contiguous());
        let ([batch, rows, columns], chunk) = geometry(&both);
        let width = columns / 2;
        let mut out = vec![0.0; batch * rows * columns];
        if width > 0 {
            let source =
                values(&both).par_chunks(chunk * columns).zip(values(&grad).par_chunks(chunk * width));
            out.par_chunks_mut(chunk * columns)
                .zip(source)
                .for_each(|(out, (both, grad))| backward_rows(both, grad, out, width));
        }
        FlexTensor::from_data(TensorData::new(out, vec![batch, rows, columns]))
    }
}

#[derive(Debug)]
struct GegluBackward;

impl<B: GegluOps> Backward<B, 1> for GegluBackward {
    type State = burn::backend::autodiff::NodeId;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let both = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(ops.state);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::geglu_backward(both, grad));
        }
    }
}

impl<B: GegluOps, C: CheckpointStrategy> GegluOps for Autodiff<B, C> {
    fn geglu(both: FloatTensor<Self>) -> FloatTensor<Self> {
        match GegluBackward.prepare::<C>([both.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&both);
                prep.finish(state, B::geglu(both.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::geglu(both.into_primitive())),
        }
    }

    fn geglu_backward(_both: FloatTensor<Self>, _grad: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of geglu is not differentiable: burn's autodiff is first order");
    }
}
