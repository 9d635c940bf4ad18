//! Group normalisation of values whose mean is many deviations from zero, against double precision: the mean is lost in
//! `x · scale + shift`, and in a long running sum.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd_kernels::{Activation, group_norm, group_norm_composed};

const SHAPE: [usize; 4] = [1, 8, 64, 64];

/// Values of deviation one around `mean`, as single precision holds them.
fn values(mean: f32) -> Vec<f32> {
    let mut state = 7_u64;
    (0..SHAPE.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            mean + 3.464 * ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5)
        })
        .collect()
}

/// Output and the gradients of `sum(output · weights)` in `x`, `gamma` and `beta`, in one of two precisions.
fn run(x: &[f32], activation: Activation, dtype: FloatDType) -> [Vec<f64>; 4] {
    let device = Device::flex();
    let tensor = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::<1>::from_data(data, &device).cast(dtype)
    };
    let leaf = |values: &[f32]| tensor(values).autodiff().require_grad();
    let x = leaf(x);
    let (gamma, beta) = (leaf(&[1.0, 0.5, -0.7, 1.3, 0.9, 1.1, -1.2, 0.8]), leaf(&[0.1; 8]));
    let body = if dtype == FloatDType::F64 { group_norm_composed } else { group_norm };
    let out = body(x.clone().reshape(SHAPE), gamma.clone(), beta.clone(), 2, 1e-5, activation);
    let grads = (out.clone() * tensor(&values(0.0)).reshape(SHAPE).autodiff()).sum().backward();
    let read = |x: Tensor<1>| x.cast(FloatDType::F64).into_data().iter::<f64>().collect();
    let gradient = |x: Tensor<1>| read(x.grad(&grads).unwrap());
    [read(out.without_autodiff().flatten(0, 3)), gradient(x), gradient(gamma), gradient(beta)]
}

/// The largest difference, by the largest of what was expected.
fn off(found: &[f64], expected: &[f64]) -> f64 {
    let largest = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).fold(0.0, f64::max);
    let size = largest(&mut expected.iter().copied());
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / size
}

/// One normalised value is a difference, a product and a sum, 2⁻²⁴ each; the sigmoid is good to 2e-7; gradients sum
/// 4096 values a channel in sixteen running sums. 2e-6 is eight times what a near mean needs, so the mean's size does not
/// matter any more: `x · scale + shift` alone is off by 1e-4 at a mean of 1000 deviations.
#[test]
fn a_far_mean_costs_no_digits() {
    for mean in [0.0, 2.0, 7.0, 20.0, 1000.0, -3000.0] {
        for activation in [Activation::Identity, Activation::Silu] {
            let x = values(mean);
            let found = run(&x, activation, FloatDType::F32);
            let expected = run(&x, activation, FloatDType::F64);
            for (what, (found, expected)) in
                ["values", "gradient of x", "gradient of gamma", "gradient of beta"]
                    .into_iter()
                    .zip(found.iter().zip(&expected))
            {
                let off = off(found, expected);
                println!("mean {mean}, {activation:?}, {what}: {off:.1e}");
                assert!(off <= 2e-6, "mean {mean}, {activation:?}, {what}: {off:.1e}");
            }
        }
    }
}
