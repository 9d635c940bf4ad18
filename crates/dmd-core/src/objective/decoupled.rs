use burn::tensor::Tensor;

use super::{Lacks, Matched, Objective};
use crate::TimeSampler;
use crate::matching::{gradient_above, surrogate_loss};

/// Decoupled guidance (arXiv 2511.22677): DMD's gradient with a guided teacher is one part that matches distributions, with
/// the teacher's prediction under the condition, and one part that guidance adds. Each has a diffusion of its own here:
///
/// `g = (F_c − R_c)(τ₁) / n₁ − (scale − 1) · (R_c − R_u)(τ₂) / n₂`, with `n = max(mean|x − R_c|, floor)` at each.
///
/// With `τ₁ = τ₂` and the same noise it is DMD's gradient with [`crate::Guided`], but for the normaliser, which there is that
/// of the guided prediction.
#[derive(Debug, Clone)]
pub struct DecoupledGuidance {
    /// The scale of guidance.
    pub scale: f64,
    /// The least that a normaliser counts for; 0 is no floor.
    pub floor: f64,
    /// The times `τ₂` of the part that guidance adds.
    pub times: TimeSampler,
}

impl Objective for DecoupledGuidance {
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
        let (networks, x) = (matched.networks, matched.plain());
        let (x_t, level) = matched.diffused();
        let conditional = networks.conditional(x_t.clone(), &level);
        let fake = networks.fake(x_t, &level);
        let matching = gradient_above(self.floor, x.clone(), conditional, fake);

        let second = matched.second.ok_or(Lacks::Diffusion)?;
        let (x_t, level) = matched.diffuse(x.clone(), second);
        let [conditional, unconditional] = networks.branches(x_t, &level).ok_or(Lacks::Guidance)?;
        // (R_u − R_c) / n: towards the conditional prediction, away from the unconditional one.
        let guidance = gradient_above(self.floor, x, conditional, unconditional);
        Ok(surrogate_loss(matched.x.clone(), matching + guidance * (self.scale - 1.0)))
    }

    fn second_times(&self) -> Option<&TimeSampler> {
        Some(&self.times)
    }
}
