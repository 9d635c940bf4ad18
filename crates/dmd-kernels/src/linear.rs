#[cfg(feature = "flex")]
use burn::module::Param;
use burn::nn::Linear;
#[cfg(feature = "flex")]
use burn::tensor::FloatDType;
use burn::tensor::Tensor;

/// `x · weight + bias` over the last axis of `x: [batch, rows, input]`, as one product of matrices.
///
/// The same numbers as `linear.forward(x)`; that one reshapes the weight, which copies it on every call
/// where it is a transposed view of a checkpoint's `[output, input]`, as loaded weights are. On flex such a weight is
/// multiplied where it lies when there are few rows: packing it would take longer than the product.
pub fn linear(linear: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, rows, input] = x.dims();
    let weight = linear.weight.val();
    let [_, output] = weight.dims();
    let x = x.reshape([batch * rows, input]);
    let bias = linear.bias.as_ref().map(|bias| bias.val());
    #[cfg(feature = "flex")]
    if let Some(dtype) = crate::widened::half(&x) {
        let single = FloatDType::F32;
        let layer = Linear {
            weight: Param::from_tensor(weight.cast(single)),
            bias: bias.map(|bias| Param::from_tensor(bias.cast(single))),
        };
        return self::linear(&layer, x.cast(single).reshape([batch, rows, input])).cast(dtype);
    }
    #[cfg(feature = "flex")]
    if crate::linear_flex::supports(&x, &weight) {
        return crate::linear_flex::linear(x, weight, bias).reshape([batch, rows, output]);
    }
    linear_composed(x, weight, bias).reshape([batch, rows, output])
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
