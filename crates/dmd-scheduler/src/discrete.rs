use std::ops::RangeInclusive;

use burn::tensor::{Int, Tensor, TensorData};
use dmd_core::{Level, NoiseLevel, NoiseSchedule};

use crate::BetaSchedule;

/// A DDPM table: whole timesteps `0..count`, variance preserving (`alpha² + sigma² = 1`).
#[derive(Debug, Clone, PartialEq)]
pub struct DiscreteSchedule {
    alphas_cumprod: Vec<f64>,
}

impl DiscreteSchedule {
    /// The table of a beta schedule.
    pub fn new(schedule: BetaSchedule, start: f64, end: f64, count: usize) -> Self {
        Self { alphas_cumprod: schedule.alphas_cumprod(start, end, count) }
    }

    /// Stable Diffusion 1.x: scaled-linear, 0.00085 to 0.012, 1000 steps (Rombach et al. 2022).
    pub fn stable_diffusion() -> Self {
        Self::new(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000)
    }

    /// Number of timesteps.
    pub fn count(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱ of a timestep.
    ///
    /// # Panics
    ///
    /// If the timestep is outside the table.
    pub fn alpha_cumprod(&self, timestep: usize) -> f64 {
        self.alphas_cumprod[timestep]
    }

    /// `(alpha, sigma)` of a timestep, in f64.
    ///
    /// # Panics
    ///
    /// If the timestep is outside the table.
    pub fn alpha_sigma(&self, timestep: usize) -> (f64, f64) {
        let product = self.alphas_cumprod[timestep];
        (product.sqrt(), (1.0 - product).sqrt())
    }

    /// A table of ᾱ, one per timestep.
    pub(crate) fn from_products(alphas_cumprod: Vec<f64>) -> Self {
        Self { alphas_cumprod }
    }

    /// A whole timestep as a place on the noise axis.
    pub(crate) fn level_at(&self, timestep: usize) -> Level {
        let (alpha, sigma) = self.alpha_sigma(timestep);
        Level { t: timestep as f64, alpha, sigma }
    }

    /// `sigma / alpha` of every timestep, ascending.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|p| ((1.0 - p) / p).sqrt()).collect()
    }
}

impl NoiseSchedule for DiscreteSchedule {
    fn level(&self, t: Tensor<1>) -> NoiseLevel {
        let count = self.count();
        let device = t.device();
        let index: Tensor<1, Int> = (t.clone() + 0.5).int();
        let look_up = |f: fn(f64) -> f64| {
            let table: Vec<f32> = self.alphas_cumprod.iter().map(|a| f(*a) as f32).collect();
            let table = Tensor::<1>::from_data(TensorData::new(table, [count]), &device);
            table.select(0, index.clone())
        };
        NoiseLevel { alpha: look_up(f64::sqrt), sigma: look_up(|product| (1.0 - product).sqrt()), t }
    }

    fn domain(&self) -> RangeInclusive<f64> {
        0.0..=(self.count() - 1) as f64
    }
}
