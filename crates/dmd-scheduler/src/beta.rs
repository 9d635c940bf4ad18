use serde::{Deserialize, Serialize};

use crate::options::Options;
use crate::{DiscreteSchedule, Error, Sampler};

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
fn without_terminal_signal(alphas_cumprod: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (alphas_cumprod.first(), alphas_cumprod.last()) else {
        return Vec::new();
    };
    let (first, last) = (first.sqrt(), last.sqrt());
    alphas_cumprod.iter().map(|p| ((p.sqrt() - last) * first / (first - last)).powi(2)).collect()
}

/// How the table of noise levels is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Betas {
    pub(crate) schedule: BetaSchedule,
    start: f64,
    end: f64,
    pub(crate) count: usize,
    pub(crate) signal: TerminalSignal,
}

/// What the schedule's last level keeps of the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalSignal {
    Kept,
    /// None (`rescale_betas_zero_snr`).
    Removed,
    /// None but what a sampler that divides by alpha needs.
    Trace,
}

/// Most timesteps of a schedule: a hundred times as many as any published one.
const MAX_TIMESTEPS: usize = 100_000;

impl Betas {
    /// Absent options have the defaults of the sampler's class in diffusers 0.42.1.
    pub(crate) fn parse(options: Options<'_>, sampler: Option<Sampler>) -> Result<Self, Error> {
        let known = [
            ("linear", BetaSchedule::Linear),
            ("scaled_linear", BetaSchedule::ScaledLinear),
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
        ];
        let (default_start, default_end) = match sampler {
            Some(Sampler::Heun | Sampler::Lcm | Sampler::Tcd) => (Some(0.00085), Some(0.012)),
            Some(_) => (Some(0.0001), Some(0.02)),
            None => (None, None),
        };
        let default_schedule = match sampler {
            Some(Sampler::Lcm | Sampler::Tcd) => Some(BetaSchedule::ScaledLinear),
            other => other.map(|_| BetaSchedule::Linear),
        };
        options.off(&["trained_betas"])?;
        let schedule = options.choice("beta_schedule", &known)?.or(default_schedule);
        let schedule = schedule.ok_or_else(|| options.refused("beta_schedule", "state it"))?;
        let start = options.number("beta_start", default_start)?;
        let end = options.number("beta_end", default_end)?;
        // The first level's variance is beta_start, taken from 1 in double precision: less is rounded to no noise at all.
        if !(start >= 1e-10 && end < 1.0 && start <= end) {
            return Err(options
                .refused("beta_start", format!("1e-10 <= beta_start <= beta_end < 1; beta_end is {end}")));
        }
        let count = options.count("num_train_timesteps", 1000)?;
        if !(2..=MAX_TIMESTEPS).contains(&count) {
            return Err(
                options.refused("num_train_timesteps", format!("a schedule has 2 to {MAX_TIMESTEPS}"))
            );
        }
        let signal = match sampler {
            // These two have no such option in diffusers.
            Some(Sampler::Pndm | Sampler::Heun) => TerminalSignal::Kept,
            _ if !options.flag("rescale_betas_zero_snr", false)? => TerminalSignal::Kept,
            Some(sampler) if sampler.divides_by_alpha() => TerminalSignal::Trace,
            _ => TerminalSignal::Removed,
        };
        Ok(Self { schedule, start, end, count, signal })
    }

    pub(crate) fn table(self) -> DiscreteSchedule {
        let mut products = self.schedule.alphas_cumprod(self.start, self.end, self.count);
        if self.signal != TerminalSignal::Kept {
            products = without_terminal_signal(&products);
        }
        if let (TerminalSignal::Trace, Some(last)) = (self.signal, products.last_mut()) {
            *last = 2.0_f64.powi(-24); // diffusers' stand-in for 0 where sigma / alpha is taken
        }
        DiscreteSchedule::from_products(products)
    }
}
