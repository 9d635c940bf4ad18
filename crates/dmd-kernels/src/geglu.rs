use std::f64::consts::FRAC_1_SQRT_2;

use burn::nn::Linear;
use burn::tensor::Tensor;

#[cfg(feature = "flex")]
use crate::low_rank::of_type;
use crate::low_rank::parted;
use crate::recording::note;
use crate::{Operation, linear};

/// The gate of a transformer's feed-forward: `h · gelu(g)` with `h` and `g` the two halves of the last axis, GELU
/// the exact, erf-based one (Shazeer 2020). Differentiable.
///
/// # Shapes
///
/// `both`: `[batch, rows, 2 · width]`; the result is `[batch, rows, width]`.
///
/// # Panics
///
/// If the last axis is odd.
pub fn geglu(both: Tensor<3>) -> Tensor<3> {
    let [batch, rows, width] = both.dims();
    assert!(width.is_multiple_of(2), "{width} columns have no two halves");
    let _span = note(|| Operation::Geglu { rows: batch * rows, width: width / 2 });
    fast!(geglu(&both));
    geglu_composed(both)
}

/// [`geglu`] of what a linear layer gives, in one where there is a body for it and nothing is tracked: the values before the gate,
/// twice as many as those after it, are then never stored. A weight with a [`LowRank`](crate::LowRank) update is computed apart.
///
/// # Shapes
///
/// `x`: `[batch, rows, input]`, of a layer to `2 · width`; the result is `[batch, rows, width]`.
///
/// # Panics
///
/// If the layer's outputs are odd.
pub fn linear_geglu(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let (weight, update) = parted(&layer.weight);
    let ([batch, rows, input], [_, output]) = (x.dims(), weight.dims());
    assert!(output.is_multiple_of(2), "{output} columns have no two halves");
    #[cfg(feature = "flex")]
    if update.is_none() {
        let flat = x.clone().reshape([batch * rows, input]);
        let bias = layer.bias.as_ref().map(|bias| of_type(x.dtype(), bias.val()));
        fast!(gated(&flat, &weight, bias.as_ref()).map(|y| y.reshape([batch, rows, output / 2])));
    }
    #[cfg(not(feature = "flex"))]
    let _ = (batch, rows, input, update);
    geglu(linear(layer, x))
}

/// [`geglu`]'s default body, in plain tensor operations: the reference that every faster body is tested against.
pub fn geglu_composed(both: Tensor<3>) -> Tensor<3> {
    let [_, _, width] = both.dims();
    let hidden = both.clone().narrow(2, 0, width / 2);
    let gate = both.narrow(2, width / 2, width / 2);
    hidden * gelu(gate)
}

/// The exact, erf-based GELU, with its exact gradient on every backend: burn 0.22's own differentiates the tanh
/// approximation everywhere but on flex, which is off by up to 1e-3.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    fast!(gelu(&x));
    x.clone() * ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}
