use serde::{Deserialize, Serialize};

/// How the variance of one forward step grows over time, from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Equal steps (DDPM).
    Linear,
    /// Equal steps of the root: `(√start .. √end)²` (Stable Diffusion).
    ScaledLinear,
    /// ᾱ is a squared cosine, each step at most 0.999 (Nichol and Dhariwal 2021); `start` and `end`
    /// have no part in it.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
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
                    Self::SquaredCosine => {
                        let product = |i: usize| {
                            let share = (i as f64 / count as f64 + 0.008) / 1.008;
                            (share * std::f64::consts::FRAC_PI_2).cos().powi(2)
                        };
                        (1.0 - product(i + 1) / product(i)).min(0.999)
                    }
                };
                product *= 1.0 - beta;
                product
            })
            .collect()
    }
}

/// The same schedule shifted and stretched so that its last step is pure noise (Lin et al. 2024,
/// algorithm 1).
pub(crate) fn without_terminal_signal(alphas_cumprod: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (alphas_cumprod.first(), alphas_cumprod.last()) else {
        return Vec::new();
    };
    let (first, last) = (first.sqrt(), last.sqrt());
    alphas_cumprod.iter().map(|p| ((p.sqrt() - last) * first / (first - last)).powi(2)).collect()
}
