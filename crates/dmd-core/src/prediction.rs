use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::level::{NoiseLevel, per_sample};

/// What a network's output `F` means.
///
/// Every parameterisation is one affine form, `x0 = c_skip · x_t + c_out · F(c_in · x_t)`:
///
/// | variant | `c_skip` | `c_out` | `c_in` | `loss_weight = 1 / c_out²` |
/// | --- | --- | --- | --- | --- |
/// | `Epsilon` | 1/α | −σ/α | 1 | α²/σ² |
/// | `Sample` | 0 | 1 | 1 | 1 |
/// | `Velocity` (α² + σ² = 1) | α | −σ | 1 | 1/σ² |
/// | `Flow` (output eps − x0) | 1/(α+σ) | −σ/(α+σ) | 1 | (α+σ)²/σ² |
/// | `Karras` (α = 1) | s²/(σ²+s²) | σs/√(σ²+s²) | 1/√(σ²+s²) | 1/σ² + 1/s² |
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The added noise `eps` (DDPM, Stable Diffusion 1.x).
    Epsilon,
    /// The clean sample `x0` itself.
    Sample,
    /// `v = alpha · eps − sigma · x0` (Salimans and Ho 2022; Stable Diffusion 2.x).
    Velocity,
    /// Rectified flow: `eps − x0`.
    Flow,
    /// EDM's preconditioning (Karras et al. 2022, table 1) for data of standard deviation `sigma_data`.
    Karras {
        /// Standard deviation of the data, 0.5 in EDM.
        sigma_data: f64,
    },
}

/// The three factors of [`Prediction`]'s affine form, each `[batch]`.
#[derive(Debug, Clone)]
pub struct Scalings {
    /// Share of `x_t` that passes around the network.
    pub c_skip: Tensor<1>,
    /// Factor of the network's output.
    pub c_out: Tensor<1>,
    /// Factor of the network's input.
    pub c_in: Tensor<1>,
}

impl Prediction {
    /// The factors at a noise level.
    pub fn scalings(&self, level: &NoiseLevel) -> Scalings {
        let (alpha, sigma) = (level.alpha.clone(), level.sigma.clone());
        let one = alpha.ones_like();
        match *self {
            Self::Epsilon => Scalings { c_skip: alpha.clone().recip(), c_out: -(sigma / alpha), c_in: one },
            Self::Sample => Scalings { c_skip: alpha.zeros_like(), c_out: one.clone(), c_in: one },
            Self::Velocity => Scalings { c_skip: alpha, c_out: -sigma, c_in: one },
            Self::Flow => {
                let total = alpha + sigma.clone();
                Scalings { c_skip: total.clone().recip(), c_out: -(sigma / total), c_in: one }
            }
            Self::Karras { sigma_data } => {
                let variance = sigma.clone().square() + sigma_data * sigma_data;
                let scale = variance.clone().sqrt();
                Scalings {
                    c_skip: variance.recip() * (sigma_data * sigma_data),
                    c_out: sigma * sigma_data / scale.clone(),
                    c_in: scale.recip(),
                }
            }
        }
    }

    /// The clean sample `c_skip · x_t + c_out · output`.
    ///
    /// # Shapes
    ///
    /// `output` and `x_t`: `[batch, ..]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use dmd_core::{NoiseLevel, Prediction};
    /// # let device = Device::flex();
    /// let value = |v: f32| Tensor::<1>::from_floats([v], &device);
    /// let level = NoiseLevel { t: value(499.0), alpha: value(0.6), sigma: value(0.8) };
    /// // x0 = 2, eps = 1: x_t = 0.6 · 2 + 0.8 · 1 = 2
    /// let x0 = Prediction::Epsilon.to_x0(value(1.0), value(2.0), &level);
    /// assert!((x0.into_scalar::<f32>() - 2.0).abs() < 1e-6);
    /// ```
    pub fn to_x0<const D: usize>(&self, output: Tensor<D>, x_t: Tensor<D>, level: &NoiseLevel) -> Tensor<D> {
        if *self == Self::Sample {
            return output;
        }
        let Scalings { c_skip, c_out, .. } = self.scalings(level);
        x_t * per_sample(c_skip) + output * per_sample(c_out)
    }

    /// The output a perfect network would give for a known `x0`: the inverse of [`Self::to_x0`].
    ///
    /// # Shapes
    ///
    /// `x0` and `x_t`: `[batch, ..]`.
    pub fn from_x0<const D: usize>(&self, x0: Tensor<D>, x_t: Tensor<D>, level: &NoiseLevel) -> Tensor<D> {
        if *self == Self::Sample {
            return x0;
        }
        let Scalings { c_skip, c_out, .. } = self.scalings(level);
        (x0 - x_t * per_sample(c_skip)) / per_sample(c_out)
    }

    /// `1 / c_out²`, `[batch]`: the weight that turns a squared error in `x0` into the squared
    /// error of the network's own output. For `Epsilon` it is the signal-to-noise ratio (DMD2's
    /// Stable Diffusion loss), for `Karras` EDM's `1/σ² + 1/sigma_data²`.
    pub fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.scalings(level).c_out.square().recip()
    }
}
