use burn::nn::Linear;
use burn::tensor::Tensor;

/// `x · weight + bias` over the last axis of `x: [batch, rows, input]`, as one product of matrices.
///
/// The same numbers as `linear.forward(x)`; that one reshapes the weight, which copies it on every call
/// where it is a transposed view of a checkpoint's `[output, input]`, as loaded weights are.
pub fn linear(linear: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, rows, input] = x.dims();
    let weight = linear.weight.val();
    let [_, output] = weight.dims();
    let mut y = x.reshape([batch * rows, input]).matmul(weight);
    if let Some(bias) = &linear.bias {
        y = y + bias.val().reshape([1, output]);
    }
    y.reshape([batch, rows, output])
}
