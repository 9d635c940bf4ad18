use burn::nn::Linear;
use burn::tensor::{DType, Tensor};

use crate::Operation;
use crate::low_rank::{of_type, parted};
use crate::recording::note;

/// `x · weight + bias` over the last axis of `x: [batch, rows, input]`, as one product of matrices.
///
/// The same numbers as `linear.forward(x)`; that one reshapes the weight, which copies it on every call
/// where it is a transposed view of a checkpoint's `[output, input]`, as loaded weights are. On flex such a weight is
/// multiplied where it lies when there are few rows: packing it would take longer than the product.
///
/// Parameters of another float type than `x` are converted for the call: a layer may be stored in half precision and
/// computed in single. A weight with a [`LowRank`](crate::LowRank) update is not added up with it.
pub fn linear(linear: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, rows, input] = x.dims();
    let (weight, update) = parted(&linear.weight);
    let [_, output] = weight.dims();
    let _span = note(|| Operation::Linear { rows: batch * rows, input, output });
    let x = x.reshape([batch * rows, input]);
    let bias = linear.bias.as_ref().map(|bias| of_type(x.dtype(), bias.val()));
    let y = match update {
        Some(update) => computed(x.clone(), weight, bias) + update.rows(x),
        None => computed(x, weight, bias),
    };
    y.reshape([batch, rows, output])
}

/// `layer.forward(x)` for `x: [rows, input]`, burn's own: what networks make of a few rows, such as an embedding. Parameters
/// of another float type are converted as in [`linear()`].
pub fn linear_rows(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    let ([rows, input], [_, output]) = (x.dims(), layer.weight.dims());
    let _span = note(|| Operation::Linear { rows, input, output });
    let (weight, update) = parted(&layer.weight);
    if weight.dtype() == x.dtype() && update.is_none() {
        return layer.forward(x);
    }
    let bias = layer.bias.as_ref().map(|bias| of_type(x.dtype(), bias.val()));
    let y = linear_composed(x.clone(), weight_of_type(x.dtype(), weight), bias);
    match update {
        Some(update) => y + update.rows(x),
        None => y,
    }
}

/// A weight in the type of what it meets, with its values in the same order in memory: a loaded one is a view of the
/// checkpoint's `[output, input]`, which is then multiplied as one that was loaded in that type, bit for bit.
fn weight_of_type(dtype: DType, weight: Tensor<2>) -> Tensor<2> {
    match weight.dtype() == dtype {
        true => weight,
        false => of_type(dtype, weight.swap_dims(0, 1)).swap_dims(0, 1),
    }
}

fn computed(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    fast!(widened(&x, || {
        computed(crate::flex::single(&x), weight.clone(), bias.as_ref().map(crate::flex::single))
    }));
    fast!(linear(&x, &weight, bias.as_ref()));
    let weight = weight_of_type(x.dtype(), weight);
    linear_composed(x, weight, bias)
}

/// [`linear()`]'s default body on `x: [rows, input]` and `weight: [input, output]`: the reference that the faster body is
/// tested against.
pub fn linear_composed(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}
