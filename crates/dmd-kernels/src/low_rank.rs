use burn::module::{Module, Param, Reparameterization};
use burn::nn::conv::Conv2d;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, FloatDType, Tensor};

use crate::convolution::{convolution3, is_plain, with_weights};

/// A low-rank update of a frozen weight ("LoRA", Hu et al. 2021): `scale · up · down` is added to it.
///
/// It is attached to a parameter by [`Module::apply_reparameterization`]. [`linear`](crate::linear()),
/// [`linear_rows`](crate::linear_rows) and [`convolution`](crate::convolution()) then compute
/// `f(x, weight) + scale · up(down(x))`: the sum of the weights is never made, and a backward pass keeps `x` and
/// `down(x)` alone. Whatever else reads the parameter gets the sum.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[rank, inputs]`, as files have it; a convolution's window belongs to its inputs.
    pub down: Param<Tensor<2>>,
    /// `[outputs, rank]`.
    pub up: Param<Tensor<2>>,
    /// What the product is multiplied by: `alpha / rank`.
    pub scale: f64,
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "lora";

    /// The weight with its update, in the weight's float type.
    ///
    /// # Panics
    ///
    /// If the weight is neither a linear layer's `[inputs, outputs]` nor a convolution's
    /// `[outputs, inputs, height, width]` of the matrices' sizes.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let product = self.up.val().matmul(self.down.val()) * self.scale; // [outputs, inputs]
        let product = if D == 2 { product.transpose() } else { product };
        base.clone() + of_type(base.dtype(), product.reshape(base.shape()))
    }
}

impl LowRank {
    /// What is added to a linear layer's result for rows `x: [rows, inputs]`.
    pub(crate) fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        let [down, up] = [&self.down, &self.up].map(|matrix| of_type(x.dtype(), matrix.val()).transpose());
        (x.matmul(down) * self.scale).matmul(up)
    }

    /// What is added to the result of a convolution: a convolution of the same window to `rank` channels, and a 1×1 one.
    pub(crate) fn picture(&self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        let ([_, inputs, height, width], [outputs, rank]) =
            (layer.weight.lazy_shape().dims(), self.up.dims());
        let [down, up] = [&self.down, &self.up].map(|matrix| of_type(x.dtype(), matrix.val()));
        let down = down.reshape([rank, inputs, height, width]);
        let narrow = match is_plain(layer) {
            true => {
                let zero = Tensor::zeros([rank], (&x.device(), x.dtype()));
                convolution3(x, down, zero)
            }
            false => with_weights(layer, x, down, None),
        };
        conv2d(
            narrow * self.scale,
            up.reshape([outputs, rank, 1, 1]),
            None,
            ConvOptions::new([1, 1], [0, 0], [1, 1], 1),
        )
    }
}

/// A weight as a layer is to be computed with it: the stored one where an update is added apart, else the parameter's value.
pub(crate) fn parted<const D: usize>(parameter: &Param<Tensor<D>>) -> (Tensor<D>, Option<&LowRank>) {
    match parameter.reparameterization::<LowRank>() {
        Some(update) => (parameter.base(), Some(update)),
        None => (parameter.val(), None),
    }
}

/// A parameter in the type of what it meets.
pub(crate) fn of_type<const D: usize>(dtype: DType, parameter: Tensor<D>) -> Tensor<D> {
    match dtype {
        _ if parameter.dtype() == dtype => parameter,
        DType::F16 => parameter.cast(FloatDType::F16),
        DType::BF16 => parameter.cast(FloatDType::BF16),
        _ => parameter.cast(FloatDType::F32),
    }
}
