use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::Operation;
use crate::recording::note;

/// `x · weight + bias` over the last axis of `x: [batch, rows, input]`, as one product of matrices.
///
/// The same numbers as `linear.forward(x)`; that one reshapes the weight, which copies it on every call
/// where it is a transposed view of a checkpoint's `[output, input]`, as loaded weights are. On flex such a weight is
/// multiplied where it lies when there are few rows: packing it would take longer than the product.
pub fn linear(linear: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, rows, input] = x.dims();
    let weight = linear.weight.val();
    let [_, output] = weight.dims();
    note(|| Operation::Linear { rows: batch * rows, input, output });
    let x = x.reshape([batch * rows, input]);
    let bias = linear.bias.as_ref().map(|bias| bias.val());
    computed(x, weight, bias).reshape([batch, rows, output])
}

/// `layer.forward(x)` for `x: [rows, input]`, burn's own: what networks make of a few rows, such as an embedding.
pub fn linear_rows(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    let ([rows, input], [_, output]) = (x.dims(), layer.weight.dims());
    note(|| Operation::Linear { rows, input, output });
    layer.forward(x)
}

fn computed(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    fast!(widened(&x, || {
        let [x, weight] = [&x, &weight].map(crate::flex::single);
        computed(x, weight, bias.as_ref().map(crate::flex::single))
    }));
    fast!(linear(&x, &weight).map(|y| with_bias(y, bias.clone())));
    linear_composed(x, weight, bias)
}

fn with_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// [`linear()`]'s default body on `x: [rows, input]` and `weight: [input, output]`: the reference that the faster body is
/// tested against.
pub fn linear_composed(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    with_bias(x.matmul(weight), bias)
}
