//! Half precision on a processor that computes in single: an operation's own inputs are widened, weights among them,
//! one layer at a time. The model stays half as large, and no full copy is ever made.

use burn::tensor::{DType, FloatDType, Tensor};

use crate::group_norm_flex::on_flex;

/// The type of a plain half-precision tensor on flex; none for any other.
pub(crate) fn half<const D: usize>(x: &Tensor<D>) -> Option<FloatDType> {
    let dtype = match x.dtype() {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => return None,
    };
    (!x.is_autodiff() && on_flex(x.device().as_dispatch())).then_some(dtype)
}
