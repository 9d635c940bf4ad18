use serde::{Deserialize, Serialize};

/// How the variance of one forward step grows over time, from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Equal steps (DDPM).
    Linear,
    /// Equal steps of the root: `(√start .. √end)²` (Stable Diffusion).
    ScaledLinear,
}

impl BetaSchedule {
    /// ᾱ of every timestep: the running product of `1 − beta`.
    pub fn alphas_cumprod(self, start: f64, end: f64, count: usize) -> Vec<f64> {
        let between =
            |low: f64, high: f64, i: usize| low + (high - low) * i as f64 / (count.max(2) - 1) as f64;
        let mut product = 1.0;
        (0..count)
            .map(|i| {
                let beta = match self {
                    Self::Linear => between(start, end, i),
                    Self::ScaledLinear => between(start.sqrt(), end.sqrt(), i).powi(2),
                };
                product *= 1.0 - beta;
                product
            })
            .collect()
    }
}
