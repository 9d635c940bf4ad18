use burn::module::Param;
use burn::nn::LayerNorm;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::Operation;
use crate::recording::note;

/// Layer normalisation of the last axis of `x: [batch, rows, width]`, in single precision also where `x` or the parameters
/// are in half.
pub fn layer_norm(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    let [batch, rows, width] = x.dims();
    let _span = note(|| Operation::LayerNorm { rows: batch * rows, width });
    let dtype = match x.dtype() {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ if norm.gamma.val().dtype() == x.dtype() => return norm.forward(x),
        _ => FloatDType::F32,
    };
    // What is converted is no leaf of a graph, as a new parameter would be.
    let single = |parameter: &Param<Tensor<1>>| {
        let value = parameter.val().cast(FloatDType::F32);
        Param::from_mapped_value(parameter.id, value, Default::default())
    };
    let mut wide = norm.clone();
    wide.gamma = single(&norm.gamma);
    wide.beta = norm.beta.as_ref().map(single);
    wide.forward(x.cast(FloatDType::F32)).cast(dtype)
}
