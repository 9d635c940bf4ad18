use burn::tensor::Tensor;

use super::{Lacks, Matched, Objective};

/// Score identity distillation (SiD, arXiv 2404.04057): with the predictions `R` of the teacher and `F` of the fake score
///
/// `L = mean (R − F) · ((R − x) − alpha (R − F)) / max(mean|x − R|, floor)`,
///
/// whose gradient also flows through the two networks to the samples. The divisor, a mean per sample, has no gradient.
///
/// Published values: `alpha` 1.2 with a fake score that learns by itself, 1.0 beside an adversarial term (SiDA); levels up
/// to 800 of Karras' 1000; one update of the fake score for one of the generator; the first beta of the generator's Adam 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreIdentity {
    /// How much of the squared difference is taken off.
    pub alpha: f64,
    /// The least that the divisor counts for (SiD: 1e-5).
    pub floor: f64,
}

impl ScoreIdentity {
    /// SiD's loss with SiD's floor.
    pub const fn new(alpha: f64) -> Self {
        Self { alpha, floor: 1e-5 }
    }
}

impl Objective for ScoreIdentity {
    /// Fake score and teacher keep their activations for the way back, a guided teacher those of two samples for one.
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
        let x = matched.x.clone();
        let (x_t, level) = matched.diffuse(x.clone(), matched.diffusion);
        let real = matched.networks.teacher(x_t.clone(), &level);
        let fake = matched.networks.fake(x_t, &level);
        let plain = real.clone().without_autodiff();
        let scale = (matched.plain() - plain).abs().mean_dims(&[1, 2, 3]).clamp_min(self.floor);
        let difference = real.clone() - fake;
        let inner = (real - x) - difference.clone() * self.alpha;
        Ok((difference * inner / scale).mean())
    }
}
