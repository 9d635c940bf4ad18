//! The normalisation of groups of channels, with its activation.

use burn::tensor::{Device, Tensor, Tolerance};
use dmd_kernels::{Activation, group_norm, group_norm_composed};
use proptest::prelude::*;

use crate::numbers;

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
