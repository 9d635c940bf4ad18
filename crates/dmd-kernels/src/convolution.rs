use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor};

use crate::group_norm::group_norm;
use crate::low_rank::{of_type, parted};
use crate::recording::{Span, note};
use crate::{Activation, Operation};

/// `layer.forward(x)`, by a faster body where one exists: [`convolution3`]'s kind of layer. A weight with a
/// [`LowRank`](crate::LowRank) update is not added up with it. Parameters of another float type than `x` are converted for
/// the call.
pub fn convolution(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let (weight, update) = parted(&layer.weight);
    let more = update.map(|update| update.picture(layer, x.clone()));
    let out = match layer.bias.as_ref().map(|bias| of_type(x.dtype(), bias.val())) {
        Some(bias) if is_plain(layer) => convolution3(x, weight, bias),
        bias => {
            let shape = x.dims();
            let _span = noted(layer, shape);
            of_other_kind(layer, x, weight, bias)
        }
    };
    match more {
        Some(more) => out + more,
        None => out,
    }
}

/// A layer's convolution of another kind with other weights.
fn of_other_kind(layer: &Conv2d, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some((stride, padding)) = plain_columns(layer) {
        fast!(convolution_by_columns(&x, &weight, bias.as_ref(), stride, padding));
    }
    let weight = of_type(x.dtype(), weight);
    with_weights(layer, x, weight, bias)
}

/// burn's convolution with a layer's options and other weights.
pub(crate) fn with_weights(
    layer: &Conv2d,
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
) -> Tensor<4> {
    let same = Conv2d {
        weight: Param::from_mapped_value(layer.weight.id, weight, Default::default()),
        bias: bias.map(|bias| Param::from_mapped_value(layer.weight.id, bias, Default::default())),
        stride: layer.stride,
        kernel_size: layer.kernel_size,
        dilation: layer.dilation,
        groups: layer.groups,
        padding: layer.padding.clone(),
    };
    same.forward(x)
}

/// Notes a layer's convolution where [`Operation`] can say it: one size each way, no groups, no dilation.
fn noted(layer: &Conv2d, [batch, input, height, width]: [usize; 4]) -> Span {
    let ([output, ..], [kernel, _]): ([usize; 4], _) = (layer.weight.lazy_shape().dims(), layer.kernel_size);
    let Some((stride, padding)) = plain_columns(layer) else { return Span::default() };
    let side = [height, width];
    note(|| Operation::Convolution { batch, input, output, side, kernel, stride, padding })
}

/// Each row twice, each column twice: doubling by repetition.
///
/// `x`: `[batch, channels, height, width]`; the result is `[batch, channels, 2 · height, 2 · width]`.
pub fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// [`convolution`] of [`doubled`] input, in one where there is a body for it and nothing is tracked: the doubled
/// picture is then never stored.
pub fn doubled_convolution(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let (weight, update) = parted(&layer.weight);
    if let (Some(bias), true, None) = (&layer.bias, is_plain(layer), update) {
        let bias = of_type(x.dtype(), bias.val());
        let [batch, _, height, width] = x.dims();
        let _span = note_plain([batch, 2 * height, 2 * width], &weight);
        fast!(doubled_convolution3(&x, &weight, &bias));
        return computed(doubled(x), weight, bias);
    }
    convolution(layer, doubled(x))
}

/// [`convolution`] of what a group normalisation and its activation make of `x`, plus `onto` where it is given. It is in one where
/// there is a body for it and nothing is tracked: the normalised picture is then never stored, and the result takes the memory of
/// `onto`. Without `gamma` and `beta` the normalisation neither scales nor shifts.
///
/// # Panics
///
/// As [`group_norm`](crate::group_norm()) and [`convolution`] do, and if the result has not the shape of `onto`.
pub fn normalised_convolution(
    norm: &GroupNorm,
    activation: Activation,
    layer: &Conv2d,
    x: Tensor<4>,
    onto: Option<Tensor<4>>,
) -> Tensor<4> {
    let channels = x.dims()[1];
    let device = (&x.device(), DType::F32);
    let single = |parameter: Option<&Param<Tensor<1>>>, default: f32| match parameter {
        Some(parameter) => of_type(DType::F32, parameter.val()),
        None => Tensor::full([channels], default, device),
    };
    let [gamma, beta] = [single(norm.gamma.as_ref(), 1.0), single(norm.beta.as_ref(), 0.0)];
    #[cfg(feature = "flex")]
    if let (Some(bias), true, (weight, None)) = (&layer.bias, is_plain(layer), parted(&layer.weight)) {
        let (bias, affine) = (of_type(x.dtype(), bias.val()), [&gamma, &beta]);
        if crate::flex::normalises(&x, affine, &weight, &bias, onto.as_ref()) {
            let ([batch, _, height, width], groups) = (x.dims(), norm.num_groups);
            let (side, silu) = ([height, width], activation == Activation::Silu);
            // Its time is part of the convolution's.
            drop(note(|| Operation::GroupNorm { batch, channels, groups, side, silu }));
            let _span = note_plain([batch, height, width], &weight);
            let normal = crate::flex::Normalisation { groups, epsilon: norm.epsilon, activation };
            return crate::flex::normalised_convolution3(&x, affine, normal, (&weight, &bias), onto);
        }
    }
    let out = convolution(layer, group_norm(x, gamma, beta, norm.num_groups, norm.epsilon, activation));
    match onto {
        Some(onto) => onto + out,
        None => out,
    }
}

/// 3×3 of stride 1 with one zero around, over all channels.
pub(crate) fn is_plain(layer: &Conv2d) -> bool {
    let padding = matches!(layer.padding, PaddingConfig2d::Explicit(1, 1, 1, 1));
    let whole = layer.dilation == [1, 1] && layer.groups == 1;
    layer.kernel_size == [3, 3] && layer.stride == [1, 1] && whole && padding
}

/// Stride and zeros before and after of a square kernel over all channels that treats both directions alike.
fn plain_columns(layer: &Conv2d) -> Option<(usize, [usize; 2])> {
    let ([kernel, across], [stride, step]) = (layer.kernel_size, layer.stride);
    let alike = kernel == across && stride == step && layer.dilation == [1, 1] && layer.groups == 1;
    let padding = match layer.padding {
        PaddingConfig2d::Valid => [0, 0],
        PaddingConfig2d::Explicit(top, left, bottom, right) if top == left && bottom == right => {
            [top, bottom]
        }
        PaddingConfig2d::Same if kernel % 2 == 1 && stride == 1 => [kernel / 2; 2],
        _ => return None,
    };
    alike.then_some((stride, padding))
}

/// The 3×3 convolution of stride 1 with one zero around. Differentiable.
///
/// # Shapes
///
/// `x`: `[batch, input, height, width]`; `weight`: `[output, input, 3, 3]`; `bias`: `[output]`; the result is
/// `[batch, output, height, width]`.
///
/// # Panics
///
/// If the channels do not fit together.
pub fn convolution3(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    assert_eq!(x.dims()[1], weight.dims()[1], "the input's channels are those of the weight");
    assert_eq!(weight.dims()[2..], [3, 3], "the kernel is 3×3");
    assert_eq!(weight.dims()[0], bias.dims()[0], "bias has one value per output channel");
    let [batch, _, height, width] = x.dims();
    let _span = note_plain([batch, height, width], &weight);
    computed(x, weight, bias)
}

/// Notes [`convolution3`] of so many pictures of a height and width.
fn note_plain([batch, height, width]: [usize; 3], weight: &Tensor<4>) -> Span {
    let [output, input, ..] = weight.dims();
    let (kernel, stride, padding, side) = (3, 1, [1, 1], [height, width]);
    note(|| Operation::Convolution { batch, input, output, side, kernel, stride, padding })
}

fn computed(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    fast!(convolution3(&x, &weight, &bias));
    fast!(widened(&x, || { computed(crate::flex::single(&x), weight.clone(), crate::flex::single(&bias)) }));
    let weight = of_type(x.dtype(), weight);
    convolution3_composed(x, weight, bias)
}

/// [`convolution3`]'s default body, burn's own convolution: the reference that every faster body is tested against.
pub fn convolution3_composed(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    conv2d(x, weight, Some(bias), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
}
