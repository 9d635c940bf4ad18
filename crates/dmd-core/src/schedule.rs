use std::ops::RangeInclusive;

use burn::tensor::Tensor;

use crate::NoiseLevel;

/// A noise schedule: the map from time to `(alpha, sigma)`.
pub trait NoiseSchedule {
    /// The levels at `t: [batch]`, in the schedule's own unit: a whole timestep (DDPM) or sigma (EDM).
    ///
    /// # Panics
    ///
    /// If a time lies outside [`Self::domain`], where the schedule can tell.
    fn level(&self, t: Tensor<1>) -> NoiseLevel;

    /// The times this schedule is defined for.
    fn domain(&self) -> RangeInclusive<f64>;
}
