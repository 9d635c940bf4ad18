//! [`geglu`] for the flex backend: one pass, rows in parallel, the gradient by recomputation.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::instructions::Pairs;
use super::instructions::{multiplies_bf16, vectorised};
use super::linear::is_served_with;
use super::mathematics::normal;
use super::products::{Bias, Right, gates, product};
#[cfg(target_arch = "x86_64")]
use super::products::{Gate, gated_product};
use super::recompute::{Recomputed, second_order, tracked};
use super::scratch::Scratch;
use super::stored::Stored;
use super::tensors::{dims, is_served, on_flex, tensor, unwritten, values};
use crate::Operation;
use crate::recording::note;

/// Rows that one thread takes at a time hold about so many values.
const CHUNK: usize = 1 << 14;
/// Values before the gate that are held at a time, 32 MiB, where a layer makes them.
const HELD: usize = 1 << 23;

/// The gate of the feed-forward.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Gelu;

#[cfg(target_arch = "x86_64")]
impl Gate for Gelu {
    #[inline(always)]
    fn apply(self, first: &[f32], second: &[f32], out: &mut [f32]) {
        for ((out, h), g) in out.iter_mut().zip(first).zip(second) {
            *out = h * g * normal(*g).0;
        }
    }
}

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

/// A linear layer and its gate in one, as an operation of a backend. It is not differentiable.
#[backend_extension(Flex)]
pub trait GatedOps: Backend {
    /// [`GegluOps::geglu`] of `x · weight + bias`: `[rows, width]` of `x: [rows, input]`, `weight: [input, 2 · width]` and
    /// `bias: [2 · width]` or nothing, `[0]`.
    fn gated(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// [`crate::linear_geglu`], where the tensor is in single precision on flex, nothing is tracked, and the values before the gate are
/// too many to be stored for nothing.
pub(crate) fn gated(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let ([rows, input], [_, output]) = (x.dims(), weight.dims());
    // In bf16 the gate is part of the product; else many values before the gate are not stored.
    let worth = rows * output > HELD || weight.dtype() == DType::BF16 && gates(output) && multiplies_bf16();
    (worth && is_served_with(x, weight, bias)).then(|| {
        // The time is the product's; the gate is a small part of it.
        drop(note(|| Operation::Geglu { rows, width: output / 2 }));
        let _span = note(|| Operation::Linear { rows, input, output });
        let bias = bias.cloned().unwrap_or_else(|| Tensor::empty([0], &x.device())).into_dispatch();
        let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::gated(x, weight, bias))
    })
}

impl GatedOps for Flex {
    fn gated(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, bias) = (x.to_contiguous(), bias.to_contiguous());
        let ([rows, depth], [_, columns]): ([usize; 2], [usize; 2]) = (dims(&x), dims(&weight));
        let turned = !weight.layout().is_contiguous();
        let weight = if turned { Flex::float_transpose(weight) } else { weight }.to_contiguous();
        let (width, right) = (columns / 2, Right { values: Stored::of(&weight), depth, columns, turned });
        #[cfg(target_arch = "x86_64")]
        if gates(columns)
            && let Some(pairs) = Pairs::of([right.values; 2])
        {
            let mut out = unwritten(rows * width);
            gated_product(pairs, Stored::Single(values(&x)), right, values(&bias), Gelu, &mut out);
            return tensor(out, [rows, width]);
        }
        let bias = if values(&bias).is_empty() { Bias::None } else { Bias::Columns(values(&bias)) };
        let most = (HELD / columns.max(1)).clamp(1, rows.max(1));
        let held = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        let mut both = Scratch::new(held * columns);
        let mut out = unwritten(rows * width);
        let chunk = (CHUNK / columns.max(1)).max(1);
        for (x, out) in values(&x).chunks((held * depth).max(1)).zip(out.chunks_mut((held * width).max(1))) {
            let both = &mut both[..2 * out.len()];
            product(Stored::Single(x), right, bias, both);
            out.par_chunks_mut(chunk * width)
                .zip(both.par_chunks(chunk * columns))
                .for_each(|(out, both)| forward_rows(both, out, width));
        }
        tensor(out, [rows, width])
    }
}

/// [`crate::gelu`] on flex: burn's own, whose gradient is exact there.
pub(crate) fn gelu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    on_flex(x.device().as_dispatch()).then(|| burn::tensor::activation::gelu(x.clone()))
}

fn forward_rows(both: &[f32], out: &mut [f32], width: usize) {
    vectorised(
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
    vectorised(
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
        let mut out = unwritten(batch * rows * width);
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
