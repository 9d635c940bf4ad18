use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Lacks, Matched, Objective};
use crate::matching::{Weighting, surrogate_loss};
use crate::per_sample;

/// A divergence between the teacher's distribution `p` and the generator's `q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `KL(q ‖ p)`, DMD's own: it seeks modes.
    ReverseKl,
    /// `KL(p ‖ q)`: it covers modes.
    ForwardKl,
    /// Jensen and Shannon's, between the two.
    JensenShannon,
    /// Hellinger's squared distance.
    Hellinger,
}

impl Divergence {
    /// The factor `h(r) = r² f''(r)` on DMD's gradient, up to a constant, of ratios `r = p / q` at the diffused samples
    /// (f-distill, arXiv 2502.15681).
    pub fn factor<const D: usize>(self, ratio: Tensor<D>) -> Tensor<D> {
        match self {
            Self::ReverseKl => ratio.ones_like(),
            Self::ForwardKl => ratio,
            Self::JensenShannon => ratio.clone() / (ratio + 1.0),
            Self::Hellinger => ratio.sqrt(),
        }
    }
}

/// f-distill (arXiv 2502.15681): DMD's gradient, each sample's weighted by the ratio of the two densities, which the critic's
/// logits estimate.
///
/// The ratio is `exp(logit)` within `[0.1, 20]`, and the factors are divided by their mean over the batch, so that their size
/// does not change the learning rate (both as in NVIDIA's FastGen). A batch of one sample therefore has the factor 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FDivergence {
    /// Which divergence.
    pub divergence: Divergence,
    /// DMD's weighting below it.
    pub weighting: Weighting,
    /// The least and the largest ratio.
    pub ratios: [f64; 2],
}

impl FDivergence {
    /// The divergence with DMD's normalised gradient and ratios within `[0.1, 20]`.
    pub const fn new(divergence: Divergence) -> Self {
        Self { divergence, weighting: Weighting::Normalised, ratios: [0.1, 20.0] }
    }

    /// The factor of each sample, `[batch]`, from logits `[batch, 1]`; their mean is 1.
    fn factors(&self, logits: Tensor<2>) -> Tensor<1> {
        let [batch, _] = logits.dims();
        let [least, most] = self.ratios;
        let ratio = logits.reshape([batch]).clamp(least.ln(), most.ln()).exp();
        let factor = self.divergence.factor(ratio);
        factor.clone() / factor.mean()
    }
}

impl Objective for FDivergence {
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
        let (x_t, level) = matched.diffused();
        let logits = matched.networks.logits(x_t.clone(), &level).ok_or(Lacks::Critic)?;
        let [real, fake] = matched.networks.both(x_t, &level);
        let gradient = self.weighting.gradient(matched.plain(), real, fake, &level);
        Ok(surrogate_loss(matched.x.clone(), gradient * per_sample(self.factors(logits))))
    }
}
