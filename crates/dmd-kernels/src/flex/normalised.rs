//! A group normalisation, its activation and the 3×3 convolution after it for the flex backend, in one: the input is normalised as its
//! tiles are transformed, so that what the normalisation makes of it is never in memory. The result can be added to a tensor, whose
//! memory it then takes.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::convolution::is_one_product;
use super::direct_loops::WeightLayout;
use super::group_norm::normals_of;
use super::linear::is_served_with;
use super::stored::Stored;
use super::tensors::{dims, is_single, tensor, unwritten, values};
use super::winograd::{self, Shape};
use crate::Activation;

/// How a normalisation is made.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation {
    /// Number of groups of channels.
    pub groups: usize,
    /// What is added to variances.
    pub epsilon: f64,
    /// What follows.
    pub activation: Activation,
}

/// A normalised convolution as an operation of a backend. It is not differentiable.
#[backend_extension(Flex)]
pub trait NormalisedConvolutionOps: Backend {
    /// [`ConvolutionOps::convolution3`](super::convolution::ConvolutionOps::convolution3) of what
    /// [`GroupNormOps::group_norm`](super::group_norm::GroupNormOps::group_norm) makes of `x`, plus `onto`, a tensor of the result's shape
    /// or nothing, `[0, 0, 0, 0]`.
    fn normalised_convolution3(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        onto: FloatTensor<Self>,
        normal: Normalisation,
    ) -> FloatTensor<Self>;
}

/// Whether [`normalised_convolution3`] serves these tensors: those with values of pictures in single precision on flex, nothing tracked,
/// and a shape for which Winograd's algorithm pays.
pub(crate) fn normalises(
    x: &Tensor<4>,
    [gamma, beta]: [&Tensor<1>; 2],
    weight: &Tensor<4>,
    bias: &Tensor<1>,
    onto: Option<&Tensor<4>>,
) -> bool {
    let [batch, channels, height, width] = x.dims();
    let shape = Shape { batch, channels, height, width, doubled: false };
    let some = batch * channels * height * width > 0;
    let tracked = gamma.is_autodiff() || beta.is_autodiff() || onto.is_some_and(|onto| onto.is_autodiff());
    let single = onto.is_none_or(is_single);
    let served = is_served_with(x, weight, Some(bias)) && !is_one_product(shape, weight);
    some && !tracked && single && served && shape.pays(weight.dims()[0])
}

/// The convolution of a normalised tensor, plus `onto`, of tensors that [`normalises`] is true for.
pub(crate) fn normalised_convolution3(
    x: &Tensor<4>,
    [gamma, beta]: [&Tensor<1>; 2],
    normal: Normalisation,
    (weight, bias): (&Tensor<4>, &Tensor<1>),
    onto: Option<Tensor<4>>,
) -> Tensor<4> {
    let onto = onto.unwrap_or_else(|| Tensor::empty([0; 4], &x.device())).into_dispatch();
    let [gamma, beta, bias] = [gamma, beta, bias].map(|parameter| parameter.clone().into_dispatch());
    let [x, weight] = [x, weight].map(|x| x.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::normalised_convolution3(x, gamma, beta, weight, bias, onto, normal))
}

impl NormalisedConvolutionOps for Flex {
    fn normalised_convolution3(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        onto: FlexTensor,
        normal: Normalisation,
    ) -> FlexTensor {
        let [x, gamma, beta, weight, bias] = [x, gamma, beta, weight, bias].map(|x| x.to_contiguous());
        let ([batch, channels, height, width], [outputs, ..]): ([usize; 4], [usize; 4]) =
            (dims(&x), dims(&weight));
        let Normalisation { groups, epsilon, activation } = normal;
        let silu = activation == Activation::Silu;
        let normal = normals_of(&x, [&gamma, &beta], groups, epsilon, silu);
        let shape = Shape { batch, channels, height, width, doubled: false };
        let weights = (Stored::of(&weight), WeightLayout { output: 9 * channels, input: 9, reversed: false });
        let len = batch * outputs * height * width;
        let convolve = |add: bool, out: &mut [f32]| {
            winograd::convolve(values(&x), shape, Some(&normal), weights, values(&bias), add, out);
        };
        if dims::<4>(&onto) == [0; 4] {
            let mut out = unwritten(len);
            convolve(false, &mut out);
            return tensor(out, [batch, outputs, height, width]);
        }
        assert_eq!(
            dims(&onto),
            [batch, outputs, height, width],
            "the result has the shape of what it is added to"
        );
        let mut onto = onto.to_contiguous();
        let start = onto.layout().start_offset();
        // Copied only where somebody else holds it.
        convolve(true, &mut onto.storage_mut::<f32>()[start..start + len]);
        onto
    }
}
