//! Linear layers; and the operations of half precision, which a processor widens.

use burn::module::Param;
use burn::nn::Linear;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, FloatDType, Tensor, TensorData, Tolerance};
use dmd_kernels::device::multiplies_bf16;
use dmd_kernels::{attention, convolution, convolution3, doubled_convolution, linear, linear_composed};

use crate::numbers;

type Run = fn(&Conv2d, Tensor<4>) -> Tensor<4>;

/// Few rows by a weight as checkpoints have it; ends that fill no vector and no block.
#[test]
fn linear_equals_composed() {
    for (rows, input, output) in
        [(77, 768, 100), (2, 64, 6), (5, 67, 25), (160, 130, 47), (1, 64, 8), (161, 64, 8), (1040, 70, 520)]
    {
        let x = numbers(1, [1, rows, input]);
        let weight = numbers(2, [output, input]).transpose();
        let bias = numbers(3, [output]);
        let layer = Linear {
            weight: Param::from_tensor(weight.clone()),
            bias: Some(Param::from_tensor(bias.clone())),
        };
        let slow = linear_composed(x.clone().squeeze_dim(0), weight, Some(bias));
        // Sums of up to 768 products of size one in another order.
        let tolerance = Tolerance::<f32>::absolute(2e-4);
        linear(&layer, x).into_data().assert_approx_eq(&slow.unsqueeze::<3>().into_data(), tolerance);
    }
}

/// Half precision on a processor: the operations of single precision between two roundings.
#[test]
fn half_precision_is_widened() {
    for (dtype, rounding) in [(FloatDType::F16, 4.9e-4), (FloatDType::BF16, 3.9e-3)] {
        let half = |t: Tensor<3>| t.cast(dtype).cast(FloatDType::F32);
        let (q, k) = (half(numbers(1, [1, 20, 32])), half(numbers(2, [1, 30, 32])));
        let check = |found: TensorData, expected: Tensor<3>| {
            // The result's own rounding, against its largest value.
            let largest = expected.clone().abs().max().into_scalar::<f32>();
            let tolerance = Tolerance::<f32>::absolute(rounding * f64::from(largest));
            Tensor::<3>::from_data(found, &Device::flex())
                .cast(FloatDType::F32)
                .into_data()
                .assert_approx_eq(&expected.into_data(), tolerance);
        };
        let found = attention(q.clone().cast(dtype), k.clone().cast(dtype), k.clone().cast(dtype), 4, false);
        check(found.into_data(), attention(q.clone(), k.clone(), k.clone(), 4, false));
        let weight = half(numbers(3, [1, 8, 32])).squeeze_dim::<2>(0).transpose();
        let layer = |weight: Tensor<2>| Linear { weight: Param::from_tensor(weight), bias: None };
        let found = linear(&layer(weight.clone().cast(dtype)), q.clone().cast(dtype));
        check(found.into_data(), linear(&layer(weight), q.clone()));
        let (x, kernel) = (q.reshape([1, 4, 8, 20]), half(numbers(4, [1, 5 * 4, 9])).reshape([5, 4, 3, 3]));
        let bias = Tensor::<1>::zeros([5], &Device::flex());
        let found = convolution3(x.clone().cast(dtype), kernel.clone().cast(dtype), bias.clone().cast(dtype));
        check(found.reshape([1, 5, 160]).into_data(), convolution3(x, kernel, bias).reshape([1, 5, 160]));
    }
}

/// A half-precision weight that meets single precision is read where it is used: the same bits as those of its values in single
/// precision. Where bf16 is multiplied as such, what it meets is rounded to it.
#[test]
fn half_precision_weights_are_read() {
    let device = Device::flex();
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let rounds = dtype == FloatDType::BF16 && multiplies_bf16();
        let check = |found: TensorData, expected: TensorData, rounds: bool| match rounds {
            // Sums of up to 180 products of size one, in pairs.
            true => found.assert_approx_eq(&expected, Tolerance::<f32>::absolute(2e-4)),
            false => found.assert_eq(&expected, true),
        };
        // Few rows, a small and a large result; a weight as checkpoints have it, and as burn has it.
        for (rows, input, output) in [(77, 130, 50), (200, 130, 70), (1040, 70, 520)] {
            let x = numbers(1, [1, rows, input]);
            let weight = numbers::<2>(2, [output, input]).cast(dtype);
            for turned in [true, false] {
                let weight = match turned {
                    true => weight.clone().transpose(),
                    false => numbers::<2>(2, [input, output]).cast(dtype),
                };
                let layer = |weight: Tensor<2>| Linear { weight: Param::from_tensor(weight), bias: None };
                let found = linear(&layer(weight.clone()), x.clone());
                let single = match turned {
                    true => weight.transpose().cast(FloatDType::F32).transpose(),
                    false => weight.cast(FloatDType::F32),
                };
                let met = if rounds { x.clone().cast(dtype).cast(FloatDType::F32) } else { x.clone() };
                check(found.into_data(), linear(&layer(single), met).into_data(), rounds);
            }
        }
        // By Winograd's algorithm, directly, and of one pixel.
        for (channels, outputs, side, kernel) in
            [(40, 50, 32, 3), (20, 7, 5, 3), (20, 7, 20, 3), (70, 30, 12, 1)]
        {
            let padding = burn::nn::PaddingConfig2d::Explicit(kernel / 2, kernel / 2, kernel / 2, kernel / 2);
            let layer =
                Conv2dConfig::new([channels, outputs], [kernel, kernel]).with_padding(padding).init(&device);
            let with = |weight: Tensor<4>| Conv2d { weight: Param::from_tensor(weight), ..layer.clone() };
            let half = numbers::<4>(3, [outputs, channels, kernel, kernel]).cast(dtype);
            let (half, single) = (with(half.clone()), with(half.cast(FloatDType::F32)));
            let x = numbers(4, [1, channels, side, side]);
            for (run, doubled) in [(convolution as Run, 1), (doubled_convolution, 2)] {
                let rounds = rounds && (kernel == 1 || (doubled * side).pow(2) <= 256);
                let met = if rounds { x.clone().cast(dtype).cast(FloatDType::F32) } else { x.clone() };
                check(run(&half, x.clone()).into_data(), run(&single, met).into_data(), rounds);
            }
        }
    }
}
