use burn::tensor::Tensor;

use crate::{Condition, Denoiser, NoiseLevel};

/// Classifier-free guidance as a denoiser: `uncond + scale · (cond − uncond)` (Ho and Salimans 2022).
///
/// Guidance is applied to x0; since every [`Prediction`](crate::Prediction) is affine with the same
/// coefficients on both branches, this equals guidance on the network's own output.
#[derive(Debug, Clone)]
pub struct Guided<D: Denoiser> {
    inner: D,
    unconditional: D::Condition,
    scale: f64,
}

impl<D: Denoiser> Guided<D> {
    /// Guides `inner` with strength `scale`; 1 is the conditional prediction itself.
    pub fn new(inner: D, unconditional: D::Condition, scale: f64) -> Self {
        Self { inner, unconditional, scale }
    }

    /// The guidance scale.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

impl<D: Denoiser> Denoiser for Guided<D> {
    type Condition = D::Condition;

    /// Both branches go through the network as one batch; at scale 1 the unconditional branch is
    /// not computed.
    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        if self.scale == 1.0 {
            return self.inner.denoise(x_t, level, condition);
        }
        let [batch, ..] = x_t.dims();
        let both = self.inner.denoise(
            Tensor::cat(vec![x_t.clone(), x_t], 0),
            &level.cat(level),
            &self.unconditional.expand(batch).cat(&condition.expand(batch)),
        );
        let uncond = both.clone().narrow(0, 0, batch);
        let cond = both.narrow(0, batch, batch);
        uncond.clone() + (cond - uncond) * self.scale
    }
}

impl<D: Denoiser> Denoiser for &D {
    type Condition = D::Condition;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        (**self).denoise(x_t, level, condition)
    }
}
