//! The fast bodies are the default bodies, values and gradients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, PaddingConfig2d};
use burn::tensor::{Device, FloatDType, Tensor, TensorData, Tolerance};
use dmd_kernels::{
    Activation, AdamWStep, adamw, adamw_composed, attention, attention_composed, convolution3,
    convolution3_composed, doubled, doubled_convolution, geglu, geglu_composed, group_norm,
    group_norm_composed, linear, linear_composed, silu, silu_composed,
};
use proptest::prelude::*;

type Op = fn(Tensor<4>, Tensor<1>, Tensor<1>, usize, f64, Activation) -> Tensor<4>;

/// Output and the three gradients of `sum(op(x) · weight)`.
fn run(
    op: Op,
    inputs: &[Tensor<4>; 2],
    affine: &[Tensor<1>; 2],
    groups: usize,
    a: Activation,
) -> [Vec<f32>; 4] {
    let x = inputs[0].clone().autodiff().require_grad();
    let gamma = affine[0].clone().autodiff().require_grad();
    let beta = affine[1].clone().autodiff().require_grad();
    let out = op(x.clone(), gamma.clone(), beta.clone(), groups, 1e-5, a);
    let grads = (out.clone() * inputs[1].clone().autodiff()).sum().backward();
    let read4 = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().unwrap();
    let read1 = |t: Tensor<1>| t.into_data().try_to_vec::<f32>().unwrap();
    [
        read4(out.without_autodiff()),
        read4(x.grad(&grads).unwrap()),
        read1(gamma.grad(&grads).unwrap()),
        read1(beta.grad(&grads).unwrap()),
    ]
}

/// Uniform numbers of variance 1 around 0.3, the same on every run: a linear congruential generator.
fn numbers<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            0.3 + 3.464 * ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5)
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn fast_equals_composed(batch in 1usize..4, groups in 1usize..5, per in 1usize..4, h in 1usize..9, w in 1usize..9, silu: bool, seed: u64) {
        // Two or three nearly equal values have a deviation that is all rounding, in either body.
        prop_assume!(per * h * w >= 8);
        let c = groups * per;
        let inputs = [numbers(seed, [batch, c, h, w]), numbers(seed ^ 1, [batch, c, h, w])];
        let affine = [numbers(seed ^ 2, [c]), numbers(seed ^ 3, [c])];
        let a = if silu { Activation::Silu } else { Activation::Identity };
        let fast = run(group_norm, &inputs, &affine, groups, a);
        let slow = run(group_norm_composed, &inputs, &affine, groups, a);
        for (fast, slow) in fast.iter().zip(&slow) {
            // f32 sums of up to 200 terms in another order, times 1/std of a group of eight or more.
            let scale = slow.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
            for (f, s) in fast.iter().zip(slow) {
                prop_assert!((f - s).abs() <= 5e-5 * scale, "{f} against {s} (scale {scale})");
            }
        }
    }
}

/// A non-contiguous input, and values far out on SiLU's tails.
#[test]
fn transposed_input_and_extreme_values() {
    let device = Device::flex();
    let x = numbers(7, [2, 4, 3, 5]).swap_dims(2, 3);
    let gamma = Tensor::<1>::from_floats([100.0, 1.0, 300.0, 0.0], &device);
    let beta = Tensor::<1>::from_floats([0.0, -200.0, 0.0, 1.0], &device);
    let run = |op: Op| op(x.clone(), gamma.clone(), beta.clone(), 2, 1e-5, Activation::Silu).into_data();
    // Normalised values are good to 1e-6; times 300 that is 3e-4.
    run(group_norm).assert_approx_eq::<f32>(&run(group_norm_composed), Tolerance::rel_abs(1e-5, 3e-4));
}

/// The gate and its gradient, fast and composed; far out on both sides too, where erf is ±1.
#[test]
fn geglu_equals_composed() {
    for (seed, shape) in [(1, [2, 5, 6]), (2, [1, 1, 2]), (3, [3, 64, 258]), (4, [1, 700, 96])] {
        let (both, weight) =
            (numbers(seed, shape) * 3.0, numbers(seed + 9, [shape[0], shape[1], shape[2] / 2]));
        let run = |op: fn(Tensor<3>) -> Tensor<3>| {
            let tracked = both.clone().autodiff().require_grad();
            let out = op(tracked.clone());
            let grads = (out.clone() * weight.clone().autodiff()).sum().backward();
            (out.without_autodiff().into_data(), tracked.grad(&grads).unwrap().into_data())
        };
        let ((fast, fast_grad), (slow, slow_grad)) = (run(geglu), run(geglu_composed));
        // erf to 1.5e-7, times values up to 6 squared.
        let tolerance = Tolerance::<f32>::absolute(1e-5);
        fast.assert_approx_eq(&slow, tolerance);
        fast_grad.assert_approx_eq(&slow_grad, tolerance);
    }
    let plain = geglu(numbers(5, [1, 3, 4]));
    assert!(!plain.is_autodiff());
}

/// The optimiser's update, fast and composed, over a few steps.
#[test]
fn adamw_equals_composed() {
    let count = 40_000;
    let start = numbers(1, [count]);
    let zeros = Tensor::<1>::zeros([count], &Device::flex());
    let (mut fast, mut slow) =
        ((start.clone(), [zeros.clone(), zeros.clone()]), (start, [zeros.clone(), zeros]));
    for i in 1..5_i32 {
        let gradient = numbers(10 + i as u64, [count]);
        let step = AdamWStep {
            beta1: 0.9,
            beta2: 0.999,
            correction2: 1.0 - 0.999_f64.powi(i),
            epsilon: 1e-8,
            rate: 1e-3 / (1.0 - 0.9_f64.powi(i)),
            decay: 1.0 - 1e-5,
        };
        // The last gradient is refused: neither body changes anything.
        let clip = Tensor::from_floats([if i < 4 { 0.7 } else { f32::NAN }], &Device::flex());
        fast = adamw(fast.0, gradient.clone(), fast.1, clip.clone(), &step);
        slow = adamw_composed(slow.0, gradient, slow.1, clip, &step);
    }
    let tolerance = Tolerance::<f32>::absolute(1e-6);
    fast.0.into_data().assert_approx_eq(&slow.0.into_data(), tolerance);
    for (fast, slow) in fast.1.into_iter().zip(slow.1) {
        fast.into_data().assert_approx_eq(&slow.into_data(), tolerance);
    }
}

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

/// The activation and its gradient, over more than one chunk and far out on both sides.
#[test]
fn silu_equals_composed() {
    let (x, by) = (numbers(1, [3, 70, 120]) * 20.0, numbers(2, [3, 70, 120]));
    let run = |op: fn(Tensor<3>) -> Tensor<3>| {
        let tracked = x.clone().autodiff().require_grad();
        let out = op(tracked.clone());
        let grads = (out.clone() * by.clone().autodiff()).sum().backward();
        (out.without_autodiff().into_data(), tracked.grad(&grads).unwrap().into_data())
    };
    let ((fast, fast_grad), (slow, slow_grad)) = (run(silu), run(silu_composed));
    // The exponential is good to 2e-7, values go up to 40.
    fast.assert_approx_eq(&slow, Tolerance::<f32>::rel_abs(1e-6, 1e-6));
    fast_grad.assert_approx_eq(&slow_grad, Tolerance::<f32>::rel_abs(1e-5, 1e-5));
    let view = numbers::<3>(5, [2, 3, 4]).swap_dims(0, 2);
    silu(view.clone())
        .into_data()
        .assert_approx_eq(&silu_composed(view).into_data(), Tolerance::<f32>::absolute(1e-6));
}

type Attention = fn(Tensor<3>, Tensor<3>, Tensor<3>, usize, bool) -> Tensor<3>;

/// Output and the three gradients of a weighted sum of it.
fn attend(
    op: Attention,
    [batch, n, m]: [usize; 3],
    heads: usize,
    width: usize,
    causal: bool,
) -> [Vec<f32>; 4] {
    let tracked = |seed, rows| numbers(seed, [batch, rows, heads * width]).autodiff().require_grad();
    let (q, k, v) = (tracked(1, n), tracked(2, m), tracked(3, m));
    let out = op(q.clone(), k.clone(), v.clone(), heads, causal);
    let by = numbers(4, [batch, n, heads * width]).autodiff();
    let grads = (out.clone() * by).sum().backward();
    let read = |t: Tensor<3>| t.into_data().try_to_vec::<f32>().unwrap();
    let of = |t: &Tensor<3>| read(t.grad(&grads).unwrap());
    [read(out.without_autodiff()), of(&q), of(&k), of(&v)]
}

fn check_attention(shape: [usize; 3], heads: usize, width: usize, causal: bool) {
    let (fast, slow) = (
        attend(attention, shape, heads, width, causal),
        attend(attention_composed, shape, heads, width, causal),
    );
    for (part, (fast, slow)) in fast.iter().zip(&slow).enumerate() {
        assert_eq!(fast.len(), slow.len());
        // Weights good to a few 1e-7 each, sums of up to a thousand of them, against the largest value.
        let scale = slow.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        for (i, (f, s)) in fast.iter().zip(slow).enumerate() {
            let what = ["output", "gradient of q", "of k", "of v"][part];
            assert!(
                (f - s).abs() <= 2e-5 * scale,
                "{shape:?}, {heads} heads of {width}, causal {causal}: {what} {i}: {f} against {s}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn attention_equals_burns(
        batch in 1usize..3, n in 1usize..70, m in 1usize..140, heads in 1usize..4, width in 1usize..50,
    ) {
        check_attention([batch, n, m], heads, width, false);
    }
}

/// More keys than a tile, more queries than the gradient takes at a time, Stable Diffusion's widths, and text's causal one.
#[test]
fn attention_of_real_shapes() {
    check_attention([1, 300, 300], 2, 40, false);
    check_attention([1, 64, 1030], 1, 80, false);
    check_attention([2, 77, 77], 2, 64, true);
    check_attention([1, 300, 300], 1, 8, true);
    check_attention([1, 20, 77], 2, 160, false);
    check_attention([1, 40, 64], 1, 512, false);
}

/// Scores far beyond what the exponential of single precision holds.
#[test]
fn attention_of_extreme_scores() {
    let (q, k, v) =
        (numbers(1, [1, 9, 16]) * 60.0, numbers(2, [1, 300, 16]) * 60.0, numbers(3, [1, 300, 16]));
    let run = |op: Attention| op(q.clone(), k.clone(), v.clone(), 2, false).into_data();
    // A score of some 10 000 is good to 1e-3, and so is a weight that is not 0 or 1.
    run(attention).assert_approx_eq::<f32>(&run(attention_composed), Tolerance::absolute(1e-2));
}

/// Few rows by a weight as checkpoints have it; ends that fill no vector and no block.
#[test]
fn linear_equals_composed() {
    for (rows, input, output) in
        [(77, 768, 100), (2, 64, 6), (5, 67, 25), (160, 130, 47), (1, 64, 8), (161, 64, 8)]
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

/// The doubled picture in one with its convolution, and where it is not: tracked, or too small.
#[test]
fn doubled_convolution_equals_both() {
    for (shape, outputs) in [([1, 64, 32, 32], 64), ([2, 40, 9, 7], 50), ([1, 2, 3, 3], 4)] {
        let [_, channels, ..] = shape;
        let layer = Conv2d {
            weight: Param::from_tensor(numbers(2, [outputs, channels, 3, 3])),
            bias: Some(Param::from_tensor(numbers(3, [outputs]))),
            ..Conv2dConfig::new([channels, outputs], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&Device::flex())
        };
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
