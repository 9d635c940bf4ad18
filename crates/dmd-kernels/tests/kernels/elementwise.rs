//! Activations, and the optimiser's update.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, FloatDType, Tensor, Tolerance};
use dmd_kernels::{
    AdamWStep, Operation, adamw, adamw_composed, geglu, geglu_composed, linear, linear_geglu, recorded, silu,
    silu_composed,
};

use crate::numbers;

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

/// A layer and its gate in one, where it makes more than is held at a time: as in two steps.
#[test]
fn linear_geglu_equals_both() {
    for (rows, input, output, turned) in
        [(4300, 24, 2000, true), (4300, 24, 2000, false), (700, 300, 256, true), (530, 24, 2048, false)]
    {
        let x = numbers(1, [2, rows / 2, input]);
        let weight = match turned {
            true => numbers::<2>(2, [output, input]).transpose(),
            false => numbers(2, [input, output]),
        };
        let bias = Some(Param::from_tensor(numbers(3, [output])));
        let layer = Linear { weight: Param::from_tensor(weight), bias };
        let (together, operations) = recorded(|| linear_geglu(&layer, x.clone()));
        assert_eq!(operations[&Operation::Linear { rows, input, output }], 1);
        assert_eq!(operations[&Operation::Geglu { rows, width: output / 2 }], 1);
        let apart = geglu(linear(&layer, x.clone()));
        // Sums of up to 300 products in another order, times values up to 70.
        together.into_data().assert_approx_eq(&apart.into_data(), Tolerance::<f32>::rel_abs(1e-5, 2e-3));
    }
}

/// With a weight in bf16 the gate is part of the product where the processor multiplies bf16: the same as one after the other, but for
/// the order of sums.
#[test]
fn linear_geglu_in_bf16() {
    for (rows, input, output) in [(77, 40, 256), (1100, 33, 128), (5, 64, 384)] {
        let weight = numbers::<2>(1, [output, input]).cast(FloatDType::BF16).transpose();
        let bias = Some(Param::from_tensor(numbers(2, [output])));
        let layer = Linear { weight: Param::from_tensor(weight), bias };
        let x = numbers(3, [1, rows, input]);
        let (together, apart) = (linear_geglu(&layer, x.clone()), geglu(linear(&layer, x)));
        // Products of sums of up to 64 products, of size ten each.
        together.into_data().assert_approx_eq(&apart.into_data(), Tolerance::<f32>::absolute(2e-3));
    }
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
