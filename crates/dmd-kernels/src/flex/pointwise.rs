//! The 1×1 convolution for the flex backend: one product of matrices per picture, its pixels where they lie.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};

use super::products::{Bias, Right, product};
use super::tensors::{dims, is_single, tensor, values};

/// A 1×1 convolution as an operation of a backend. It is not differentiable: training keeps burn's own.
#[backend_extension(Flex)]
pub trait PointwiseOps: Backend {
    /// `[batch, output, height, width]` of `x: [batch, input, height, width]`, `weight: [output, input, 1, 1]` and
    /// `bias: [output]` or nothing, `[0]`.
    fn pointwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The 1×1 convolution, where the tensor is in single precision on flex and nothing is tracked.
pub(crate) fn pointwise(x: &Tensor<4>, weight: &Tensor<4>, bias: Option<&Tensor<1>>) -> Option<Tensor<4>> {
    let tracked = x.is_autodiff() || weight.is_autodiff() || bias.is_some_and(Tensor::is_autodiff);
    (weight.dtype() == DType::F32 && !tracked && is_single(x)).then(|| {
        let bias = bias.cloned().unwrap_or_else(|| Tensor::empty([0], &x.device()));
        let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::pointwise(x, weight, bias.into_dispatch()))
    })
}

impl PointwiseOps for Flex {
    fn pointwise(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let ([batch, depth, height, width], [outputs, ..]): ([usize; 4], [usize; 4]) =
            (dims(&x), dims(&weight));
        let columns = height * width;
        let mut out = vec![0.0_f32; batch * outputs * columns];
        let (x, weight, bias) = (values(&x), values(&weight), values(&bias));
        let bias = if bias.is_empty() { Bias::None } else { Bias::Rows(bias) };
        for (sample, out) in out.chunks_mut((outputs * columns).max(1)).enumerate() {
            let values = &x[sample * depth * columns..][..depth * columns];
            product(weight, Right { values, depth, columns, turned: false }, bias, out);
        }
        tensor(out, [batch, outputs, height, width])
    }
}
