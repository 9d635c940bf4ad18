//! Convolutions of 3×3, plain, frozen and after doubling.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, Tolerance};
use dmd_kernels::{
    Activation, convolution, convolution3, convolution3_composed, doubled, doubled_convolution, group_norm,
    normalised_convolution, recorded,
};
use proptest::prelude::*;

use crate::numbers;

type Convolution = fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>;

/// Output and the three gradients of `sum(op(x, weight, bias) · ones)`, weighted so that no gradient is constant.
fn convolve(op: Convolution, shape: [usize; 4], outputs: usize, seed: u64) -> [Vec<f32>; 4] {
    let [batch, channels, height, width] = shape;
    let x = numbers(seed, shape).autodiff().require_grad();
    let weight = numbers(seed ^ 1, [outputs, channels, 3, 3]).autodiff().require_grad();
    let bias = numbers(seed ^ 2, [outputs]).autodiff().require_grad();
    let out = op(x.clone(), weight.clone(), bias.clone());
    let by = numbers(seed ^ 3, [batch, outputs, height, width]).autodiff();
    let grads = (out.clone() * by).sum().backward();
    let read = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
    [
        read(out.without_autodiff()),
        read(x.grad(&grads).unwrap()),
        read(weight.grad(&grads).unwrap()),
        bias.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap(),
    ]
}

fn check_convolution(shape: [usize; 4], outputs: usize, seed: u64) {
    let (fast, slow) =
        (convolve(convolution3, shape, outputs, seed), convolve(convolution3_composed, shape, outputs, seed));
    for (part, (fast, slow)) in fast.iter().zip(&slow).enumerate() {
        assert_eq!(fast.len(), slow.len());
        // f32 sums of some thousand terms in another order, against the largest value.
        let scale = slow.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        for (i, (f, s)) in fast.iter().zip(slow).enumerate() {
            let what = ["output", "gradient of x", "of the weight", "of the bias"][part];
            assert!((f - s).abs() <= 2e-5 * scale, "{shape:?} to {outputs}, {what} {i}: {f} against {s}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn convolution_equals_burns(
        batch in 1usize..4, channels in 1usize..48, outputs in 1usize..48, height in 1usize..20,
        width in 1usize..40, seed: u64,
    ) {
        check_convolution([batch, channels, height, width], outputs, seed);
    }
}

/// Whole vectors of 16, several tiles of rows, more threads than samples, and the shapes of the embedded model.
#[test]
fn convolution_of_real_shapes() {
    for (shape, outputs) in [
        ([1, 16, 64, 64], 16),
        ([1, 16, 64, 64], 3),
        ([2, 4, 8, 8], 56),
        ([3, 112, 4, 4], 56),
        ([1, 300, 40, 48], 7),
        ([1, 64, 128, 17], 32),
        ([1, 600, 3, 80], 20),
    ] {
        check_convolution(shape, outputs, 5);
    }
    let empty = convolution3(
        Tensor::zeros([0, 2, 4, 4], &Device::flex()),
        Tensor::zeros([3, 2, 3, 3], &Device::flex()),
        Tensor::zeros([3], &Device::flex()),
    );
    assert_eq!(empty.dims(), [0, 3, 4, 4]);
}

/// A frozen layer: its input's gradient alone.
#[test]
fn frozen_convolution() {
    let x = numbers(1, [1, 5, 6, 7]).autodiff().require_grad();
    let (weight, bias) = (numbers(2, [4, 5, 3, 3]), numbers(3, [4]));
    let gradient = |op: Convolution| {
        let grads = op(x.clone(), weight.clone().autodiff(), bias.clone().autodiff()).sum().backward();
        x.grad(&grads).unwrap().into_data()
    };
    let tolerance = Tolerance::<f32>::absolute(1e-4);
    gradient(convolution3).assert_approx_eq(&gradient(convolution3_composed), tolerance);
}

fn plain_layer(channels: usize, outputs: usize) -> Conv2d {
    Conv2d {
        weight: Param::from_tensor(numbers(2, [outputs, channels, 3, 3])),
        bias: Some(Param::from_tensor(numbers(3, [outputs]))),
        ..Conv2dConfig::new([channels, outputs], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(&Device::flex())
    }
}

/// A normalisation in one with its convolution: the same bits as one after the other, also in a batch, in a part of a tensor, beside
/// large means, and where it is not in one: tracked, or too small.
#[test]
fn normalised_convolution_equals_both() {
    for (shape, outputs, mean) in [
        ([1, 64, 32, 32], 64, 0.0),
        ([2, 40, 9, 7], 50, 0.0),
        ([2, 64, 64, 64], 32, 100.0),
        ([1, 4, 3, 3], 4, 0.0),
    ] {
        let [_, channels, ..] = shape;
        let layer = plain_layer(channels, outputs);
        let mut norm = GroupNormConfig::new(4, channels).with_epsilon(1e-5).init(&Device::flex());
        norm.gamma = Some(Param::from_tensor(numbers(4, [channels])));
        norm.beta = Some(Param::from_tensor(numbers(5, [channels])));
        for activation in [Activation::Silu, Activation::Identity] {
            let x = numbers(1, shape) + mean;
            let part = |parameter: &Option<Param<Tensor<1>>>| parameter.as_ref().unwrap().val();
            let normal = |x| group_norm(x, part(&norm.gamma), part(&norm.beta), 4, 1e-5, activation);
            let slow = convolution(&layer, normal(x.clone())).into_data();
            let fast = |x| normalised_convolution(&norm, activation, &layer, x, None);
            assert_eq!(fast(x.clone()).into_data(), slow, "{shape:?} {activation:?}");
            let view = Tensor::cat(vec![x.clone(), x.clone()], 1).narrow(1, channels, channels);
            assert_eq!(fast(view).into_data(), slow);
            // Onto a tensor that is held elsewhere, too, and onto one that is not.
            let onto = || numbers(6, [shape[0], outputs, shape[2], shape[3]]);
            let held = onto();
            let sum =
                |onto| normalised_convolution(&norm, activation, &layer, x.clone(), Some(onto)).into_data();
            let right = (onto() + Tensor::from_data(slow.clone(), &Device::flex())).into_data();
            assert_eq!(sum(held.clone()), right, "{shape:?} {activation:?}");
            assert_eq!(sum(onto()), right, "{shape:?} {activation:?}");
            assert_eq!(held.into_data(), onto().into_data());
            let tracked = x.autodiff().require_grad();
            let out = fast(tracked.clone());
            let grads = out.clone().sum().backward();
            assert!(tracked.grad(&grads).is_some());
            out.without_autodiff().into_data().assert_approx_eq(&slow, Tolerance::<f32>::absolute(5e-4));
        }
    }
}

/// Both operations are noted, whether they run in one or one after the other.
#[test]
fn a_normalised_convolution_is_noted() {
    let layer = plain_layer(64, 64);
    let norm = GroupNormConfig::new(4, 64).init(&Device::flex());
    let x = numbers(1, [1, 64, 32, 32]);
    let run = |x: Tensor<4>| recorded(|| normalised_convolution(&norm, Activation::Silu, &layer, x, None)).1;
    let together = run(x.clone());
    assert_eq!(together.len(), 2, "{together:?}");
    assert_eq!(run(x.autodiff().require_grad()), together);
}

/// The doubled picture in one with its convolution, and where it is not: tracked, or too small.
#[test]
fn doubled_convolution_equals_both() {
    for (shape, outputs) in [([1, 64, 32, 32], 64), ([2, 40, 9, 7], 50), ([1, 2, 3, 3], 4)] {
        let [_, channels, ..] = shape;
        let layer = plain_layer(channels, outputs);
        let x = numbers(1, shape);
        let slow =
            convolution3_composed(doubled(x.clone()), layer.weight.val(), layer.bias.clone().unwrap().val());
        let (slow, fast) = (slow.into_data(), doubled_convolution(&layer, x.clone()).into_data());
        // Sums of up to 600 products of size one in another order.
        fast.assert_approx_eq(&slow, Tolerance::<f32>::absolute(5e-4));
        let tracked = x.autodiff().require_grad();
        let out = doubled_convolution(&layer, tracked.clone());
        let grads = out.clone().sum().backward();
        assert!(tracked.grad(&grads).is_some());
        out.without_autodiff().into_data().assert_approx_eq(&slow, Tolerance::<f32>::absolute(5e-4));
    }
}

/// Other kernels, strides and paddings, also those of a side alone, with a bias and without.
#[test]
fn convolution_of_other_kernels() {
    let device = Device::flex();
    for (kernel, stride, padding, side) in [
        (1, 1, PaddingConfig2d::Valid, [7, 9]),
        (3, 2, PaddingConfig2d::Explicit(1, 1, 1, 1), [8, 12]),
        (3, 2, PaddingConfig2d::Explicit(0, 0, 1, 1), [8, 13]),
        (3, 2, PaddingConfig2d::Valid, [9, 5]),
        (5, 1, PaddingConfig2d::Same, [6, 7]),
        (4, 4, PaddingConfig2d::Valid, [8, 12]),
        (14, 14, PaddingConfig2d::Valid, [28, 42]),
    ] {
        for bias in [true, false] {
            let config = Conv2dConfig::new([5, 70], [kernel, kernel]).with_stride([stride, stride]);
            let layer = config.with_padding(padding.clone()).with_bias(bias).init(&device);
            let x = numbers(1, [2, 5, side[0], side[1]]);
            let (fast, slow) = (convolution(&layer, x.clone()), layer.forward(x));
            assert_eq!(fast.dims(), slow.dims(), "kernel {kernel}, stride {stride}, {padding:?}");
            // f32 sums of up to 980 terms in another order.
            fast.into_data().assert_approx_eq(&slow.into_data(), Tolerance::<f32>::absolute(2e-5));
        }
    }
}
