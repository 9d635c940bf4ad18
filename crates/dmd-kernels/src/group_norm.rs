use burn::tensor::{DType, Tensor, activation::silu};

use crate::Operation;
use crate::low_rank::of_type;
use crate::recording::note;

/// What follows a normalisation in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The normalised values themselves.
    #[default]
    Identity,
    /// `x · sigmoid(x)`.
    Silu,
}

/// Group normalisation over `[batch, channels, height, width]`, then an activation.
///
/// Each of `groups` groups of channels is shifted and scaled to mean 0 and variance 1 (biased,
/// plus `epsilon`), then `gamma · x + beta` per channel: PyTorch's `GroupNorm`, then `SiLU`.
/// Differentiable in `x`, `gamma` and `beta` (`[channels]` each). In half precision it is computed in single: means and
/// variances of many halves lose too much. `gamma` and `beta` may have another float type than `x`.
///
/// # Panics
///
/// If `groups` does not divide the channels, or `gamma` or `beta` is not `[channels]`.
pub fn group_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "{groups} groups do not divide {channels} channels"
    );
    assert_eq!(gamma.dims(), [channels], "gamma has one value per channel");
    assert_eq!(beta.dims(), [channels], "beta has one value per channel");
    let (side, silu) = ([height, width], activation == Activation::Silu);
    let _span = note(|| Operation::GroupNorm { batch, channels, groups, side, silu });
    let [gamma, beta] = [gamma, beta].map(|parameter| of_type(DType::F32, parameter));
    computed(x, [gamma, beta], groups, epsilon, activation)
}

fn computed(
    x: Tensor<4>,
    [gamma, beta]: [Tensor<1>; 2],
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    fast!(group_norm(&x, [&gamma, &beta], groups, epsilon, activation));
    match x.dtype() {
        DType::F32 => group_norm_composed(x, gamma, beta, groups, epsilon, activation),
        half => {
            let single = of_type(DType::F32, x);
            of_type(half, computed(single, [gamma, beta], groups, epsilon, activation))
        }
    }
}

/// [`group_norm`]'s default body, in plain tensor operations: the reference that every faster body
/// is tested against.
pub fn group_norm_composed(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    let shape = x.dims();
    let [batch, channels, height, width] = shape;
    let grouped = x.reshape([batch, groups, channels / groups * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normal = (centred / (variance + epsilon).sqrt()).reshape(shape);
    let out = normal * gamma.reshape([1, channels, 1, 1]) + beta.reshape([1, channels, 1, 1]);
    match activation {
        Activation::Identity => out,
        Activation::Silu => silu(out),
    }
}
