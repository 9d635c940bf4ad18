//! [`geglu`] for the flex backend: one pass, rows in parallel, the gradient by recomputation.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::mathematics::normal;
use super::recompute::{Recomputed, second_order, tracked};
use super::tensors::{dims, is_served, on_flex, tensor, values};

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

/// [`crate::geglu`], where the tensor is on flex in a float type that is served.
pub(crate) fn geglu(both: &Tensor<3>) -> Option<Tensor<3>> {
    is_served(both).then(|| Tensor::from_dispatch(Dispatch::geglu(both.clone().into_dispatch())))
}

/// [`crate::gelu`] on flex: burn's own, whose gradient is exact there.
pub(crate) fn gelu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    on_flex(x.device().as_dispatch()).then(|| burn::tensor::activation::gelu(x.clone()))
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
    let shape: [usize; 3] = dims(both);
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
        tensor(out, [batch, rows, width])
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
        tensor(out, [batch, rows, columns])
    }
}

#[derive(Debug, Clone)]
struct Geglu;

impl<B: GegluOps> Recomputed<B, 1> for Geglu {
    fn forward(&self, [both]: [FloatTensor<B>; 1]) -> FloatTensor<B> {
        B::geglu(both)
    }

    fn backward(
        &self,
        [both]: [FloatTensor<B>; 1],
        gradient: FloatTensor<B>,
        _: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        [Some(B::geglu_backward(both, gradient))]
    }
}

impl<B: GegluOps, C: CheckpointStrategy> GegluOps for Autodiff<B, C> {
    fn geglu(both: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, C, _, 1>(Geglu, [both])
    }

    fn geglu_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        second_order("geglu")
    }
}
