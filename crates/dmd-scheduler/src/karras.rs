use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use dmd_core::{NoiseLevel, NoiseSchedule};

/// EDM's schedule: `alpha = 1`, time *is* sigma (Karras et al. 2022, eq. 5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KarrasSchedule {
    /// Smallest noise, 0.002 in EDM.
    pub sigma_min: f64,
    /// Largest noise, 80 in EDM.
    pub sigma_max: f64,
    /// Curvature of the grid, 7 in EDM.
    pub rho: f64,
}

impl Default for KarrasSchedule {
    fn default() -> Self {
        Self { sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 }
    }
}

impl KarrasSchedule {
    /// `count` noise levels, ascending from `sigma_min` to `sigma_max`: DMD's grid with 1000, of
    /// which the matching term uses the indices 20 to 980.
    pub fn sigmas(&self, count: usize) -> Vec<f64> {
        let root = |sigma: f64| sigma.powf(1.0 / self.rho);
        let (low, high) = (root(self.sigma_min), root(self.sigma_max));
        (0..count)
            .map(|i| {
                let down = (count - 1 - i) as f64 / (count.max(2) - 1) as f64;
                (high + down * (low - high)).powf(self.rho)
            })
            .collect()
    }
}

impl NoiseSchedule for KarrasSchedule {
    fn level(&self, t: Tensor<1>) -> NoiseLevel {
        NoiseLevel { alpha: t.ones_like(), sigma: t.clone(), t }
    }

    fn domain(&self) -> RangeInclusive<f64> {
        self.sigma_min..=self.sigma_max
    }
}
