//! Distribution matching: the gradient of `KL(generator ‖ teacher)` and the loss that carries it
//! (DMD, eq. 7 and algorithm 2; the same in DMD2).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{NoiseLevel, per_sample};

/// `(fake_x0 − real_x0) / mean|x − real_x0|`, the mean per sample over all axes but the first.
///
/// All three inputs live on the plain side of autodiff. `x` is the generator's *clean* sample and
/// moves along the negative of this gradient, towards the teacher's denoised picture.
///
/// A sample on which `x = real_x0` exactly has a zero denominator and gives a non-finite gradient:
/// nothing is replaced in silence, the trainer reports it.
///
/// # Shapes
///
/// All `[batch, ..]`; the result likewise.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// # let device = Device::flex();
/// let row = |v: [f32; 4]| Tensor::<2>::from_floats([v], &device);
/// let g = dmd_core::matching::gradient(
///     row([0.25, -0.5, 1.0, 0.0]),
///     row([0.2, -0.1, 0.4, 0.5]),
///     row([0.1, -0.3, 0.9, 0.2]),
/// );
/// // mean|x − real| = 0.3875; (0.1 − 0.2) / 0.3875 = −0.258 064 5
/// assert!((g.into_data().try_to_vec::<f32>().unwrap()[0] + 0.2580645).abs() < 1e-6);
/// ```
pub fn gradient<const D: usize>(x: Tensor<D>, real_x0: Tensor<D>, fake_x0: Tensor<D>) -> Tensor<D> {
    gradient_above(0.0, x, real_x0, fake_x0)
}

/// [`gradient`] with a normaliser of at least `floor`, as several codes have it (FastGen: 1e-6, others up to 0.1): where the
/// teacher already agrees with a sample, the sample's gradient then becomes small instead of large.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// # let device = Device::flex();
/// let row = |v: [f32; 2]| Tensor::<2>::from_floats([v], &device);
/// let g = dmd_core::matching::gradient_above(0.1, row([1.0, 2.0]), row([1.0, 2.0]), row([1.2, 2.0]));
/// // mean|x − real| = 0 counts for 0.1
/// assert!((g.into_data().try_to_vec::<f32>().unwrap()[0] - 2.0).abs() < 1e-5);
/// ```
pub fn gradient_above<const D: usize>(
    floor: f64,
    x: Tensor<D>,
    real_x0: Tensor<D>,
    fake_x0: Tensor<D>,
) -> Tensor<D> {
    let axes: Vec<usize> = (1..D).collect();
    let scale = (x - real_x0.clone()).abs().mean_dims(&axes);
    let scale = if floor > 0.0 { scale.clamp_min(floor) } else { scale };
    (fake_x0 - real_x0) / scale
}

/// How the difference of the two predictions is weighted (DMD, table 2 right; FID on CIFAR-10).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// DMD's equation 8, as its code executes it: divided by the mean error of the teacher, per sample ([`gradient`]).
    /// FID 2.66.
    #[default]
    Normalised,
    /// The same with a floor under the divisor ([`gradient_above`]).
    NormalisedAbove {
        /// The smallest divisor.
        floor: f64,
    },
    /// `w_t = sigma / alpha`. FID 3.60.
    SigmaOverAlpha,
    /// `w_t = sigma³ / alpha`. FID 3.71.
    SigmaCubedOverAlpha,
}

impl Weighting {
    /// The least that the normaliser counts for, 0 without a floor; `None` of a weighting without a normaliser.
    pub fn floor(self) -> Option<f64> {
        match self {
            Self::Normalised => Some(0.0),
            Self::NormalisedAbove { floor } => Some(floor),
            Self::SigmaOverAlpha | Self::SigmaCubedOverAlpha => None,
        }
    }

    /// `w_t · alpha · (s_fake − s_real)` with this weight, on predicted clean samples: the scores
    /// differ by `alpha / sigma² · (fake_x0 − real_x0)`. For [`Self::Normalised`] it is [`gradient`],
    /// which DMD's pseudo-code executes: larger than equation 7 with 8 by `1 / alpha`.
    ///
    /// # Shapes
    ///
    /// As [`gradient`].
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use dmd_core::{NoiseLevel, matching::Weighting};
    /// # let device = Device::flex();
    /// let value = |v: f32| Tensor::<1>::from_floats([v], &device);
    /// let level = NoiseLevel { t: value(0.0), alpha: value(0.8), sigma: value(0.6) };
    /// let point = |v: f32| Tensor::<2>::from_floats([[v]], &device);
    /// let of = |weighting: Weighting| {
    ///     let g = weighting.gradient(point(0.25), point(0.1), point(0.4), &level);
    ///     g.into_scalar::<f32>()
    /// };
    /// // 0.8 / 0.6 · 0.3 = 0.4 and 0.8 · 0.6 · 0.3 = 0.144; 0.3 / 0.15 = 2
    /// assert!((of(Weighting::SigmaOverAlpha) - 0.4).abs() < 1e-6);
    /// assert!((of(Weighting::SigmaCubedOverAlpha) - 0.144).abs() < 1e-6);
    /// assert!((of(Weighting::Normalised) - 2.0).abs() < 1e-5);
    /// ```
    pub fn gradient<const D: usize>(
        self,
        x: Tensor<D>,
        real_x0: Tensor<D>,
        fake_x0: Tensor<D>,
        level: &NoiseLevel,
    ) -> Tensor<D> {
        let (alpha, sigma) = (level.alpha.clone(), level.sigma.clone());
        let factor = match self {
            Self::Normalised => return gradient(x, real_x0, fake_x0),
            Self::NormalisedAbove { floor } => return gradient_above(floor, x, real_x0, fake_x0),
            Self::SigmaOverAlpha => alpha / sigma,
            Self::SigmaCubedOverAlpha => alpha * sigma,
        };
        (fake_x0 - real_x0) * per_sample(factor)
    }
}

/// `½ · mean (x − stop(x − g))²`; its derivative in `x` is `g / numel(x)`.
///
/// The *value* is `½ · mean g²`: not a metric, and not expected to fall.
///
/// # Shapes
///
/// `x` and `gradient`: `[batch, ..]`; the loss is `[1]`.
pub fn surrogate_loss<const D: usize>(x: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    let target = x.clone().without_autodiff() - gradient.without_autodiff();
    (x - target).square().mean() * 0.5
}
