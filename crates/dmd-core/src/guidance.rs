use burn::tensor::Tensor;

use crate::{Condition, Denoiser, NoiseLevel, Prediction, Scalings, per_sample};

/// Classifier-free guidance as a denoiser: `uncond + scale · (cond − uncond)` (Ho and Salimans 2022).
///
/// Guidance is applied to x0; since every [`Prediction`](crate::Prediction) is affine with the same
/// coefficients on both branches, this equals guidance on the network's own output.
#[derive(Debug, Clone)]
pub struct Guided<D: Denoiser> {
    inner: D,
    unconditional: D::Condition,
    scale: f64,
    rescale: Option<(f64, Prediction)>,
}

impl<D: Denoiser> Guided<D> {
    /// Guides `inner` with strength `scale`; 1 is the conditional prediction itself.
    pub fn new(inner: D, unconditional: D::Condition, scale: f64) -> Self {
        Self { inner, unconditional, scale, rescale: None }
    }

    /// Brings the guided output's deviation back towards the conditional one's by the share `rescale`
    /// (Lin et al. 2024, section 3.4: 0.7 against overexposure). Deviations are those of the network's
    /// own output, whose meaning is `prediction`.
    pub fn with_rescale(self, rescale: f64, prediction: Prediction) -> Self {
        Self { rescale: (rescale != 0.0).then_some((rescale, prediction)), ..self }
    }

    /// The guidance scale.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Both branches, the conditional one first, as one batch.
    fn both(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &D::Condition) -> [Tensor<4>; 2] {
        let [batch, ..] = x_t.dims();
        let both = self.inner.denoise(
            Tensor::cat(vec![x_t.clone(), x_t], 0),
            &level.cat(level),
            &self.unconditional.expand(batch).cat(&condition.expand(batch)),
        );
        [both.clone().narrow(0, batch, batch), both.narrow(0, 0, batch)]
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
        let [cond, uncond] = self.both(x_t.clone(), level, condition);
        let guided = uncond.clone() + (cond.clone() - uncond) * self.scale;
        let Some((rescale, prediction)) = self.rescale else {
            return guided;
        };
        let Scalings { c_skip, c_out, .. } = prediction.scalings(level);
        let output =
            |x0: Tensor<4>| (x0 - x_t.clone() * per_sample(c_skip.clone())) / per_sample(c_out.clone());
        let (guided, cond) = (output(guided), output(cond));
        let factor = deviation(cond) / deviation(guided.clone());
        let output = guided * per_sample(factor * rescale + (1.0 - rescale));
        x_t * per_sample(c_skip) + output * per_sample(c_out)
    }

    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        self.inner.denoise(x_t, level, condition)
    }

    fn branches(
        &self,
        x_t: Tensor<4>,
        level: &NoiseLevel,
        condition: &Self::Condition,
    ) -> Option<[Tensor<4>; 2]> {
        Some(self.both(x_t, level, condition))
    }
}

/// The deviation of each sample's values, `[batch]`.
fn deviation(x: Tensor<4>) -> Tensor<1> {
    let [batch, ..] = x.dims();
    let x: Tensor<2> = x.flatten(1, 3);
    let centred = x.clone() - x.mean_dim(1);
    centred.square().mean_dim(1).sqrt().reshape([batch])
}

impl<D: Denoiser> Denoiser for &D {
    type Condition = D::Condition;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        (**self).denoise(x_t, level, condition)
    }

    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        (**self).conditional(x_t, level, condition)
    }

    fn branches(
        &self,
        x_t: Tensor<4>,
        level: &NoiseLevel,
        condition: &Self::Condition,
    ) -> Option<[Tensor<4>; 2]> {
        (**self).branches(x_t, level, condition)
    }
}
