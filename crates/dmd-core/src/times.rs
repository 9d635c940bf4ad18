use std::ops::RangeInclusive;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{Level, Noise};

/// Draws the times of a training step.
#[derive(Debug, Clone, PartialEq)]
pub enum TimeSampler {
    /// Whole timesteps, uniform, both ends included. DMD's matching term: 20 to 980 of 1000; a
    /// denoising loss: 0 to 999.
    Timesteps(RangeInclusive<usize>),
    /// Uniform over the entries of a grid of sigmas (EDM).
    Grid(Vec<f64>),
    /// Times of a list, each with its share: of a [`TimeDistribution`].
    Shares {
        /// The times.
        times: Vec<f64>,
        /// The share of each time and of those before it; the last is that of all, not necessarily 1.
        ends: Vec<f64>,
    },
}

impl TimeSampler {
    /// One time per sample, `[batch]`.
    pub fn draw(&self, batch: usize, noise: &mut Noise, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.numbers(batch, noise), [batch]), device)
    }

    /// Moves `noise` on as [`Self::draw`] does.
    pub fn skip(&self, batch: usize, noise: &mut Noise) {
        self.numbers(batch, noise);
    }

    fn numbers(&self, batch: usize, noise: &mut Noise) -> Vec<f32> {
        match self {
            Self::Timesteps(range) => {
                let drawn = noise.integers(range.clone(), batch);
                drawn.into_iter().map(|t| t as f32).collect()
            }
            Self::Grid(sigmas) => (0..batch).map(|_| sigmas[noise.below(sigmas.len())] as f32).collect(),
            Self::Shares { times, ends } => {
                let all = ends.last().copied().unwrap_or(0.0);
                let drawn = noise.uniform(0.0..=all, batch).into_iter();
                drawn
                    .map(|u| times[ends.partition_point(|end| *end <= u).min(times.len() - 1)] as f32)
                    .collect()
            }
        }
    }
}

/// How often a training step draws each level of a schedule. A range of levels keeps their proportions: what falls outside
/// is not drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimeDistribution {
    /// Each level equally often, as in DMD and DMD2.
    #[default]
    Uniform,
    /// `t' = shift · t / (1 + (shift − 1) · t)` of a uniform `t` in `[0, 1)`, the place in the schedule: a shift above 1
    /// prefers noisy levels, one below 1 the others (Esser et al. 2024, section 5.3.2; Stable Diffusion 3: 3).
    Shifted {
        /// 1 is uniform.
        shift: f64,
    },
    /// `ln (sigma / alpha)` is normal, and the nearest level is drawn (Karras et al. 2022, table 1).
    LogNormal {
        /// Mean of the logarithm (EDM: −1.2).
        mean: f64,
        /// Its standard deviation (EDM: 1.2).
        std: f64,
    },
}

impl TimeDistribution {
    /// Whether this is [`Self::Uniform`].
    pub fn is_uniform(&self) -> bool {
        *self == Self::Uniform
    }

    /// What draws so among the levels `range` of a schedule. `levels` are all of its levels, the least noisy first.
    /// `None` where these levels have less than a millionth of the whole.
    ///
    /// # Panics
    ///
    /// If the range is not one of `levels`.
    pub fn among(&self, levels: &[Level], range: RangeInclusive<usize>) -> Option<TimeSampler> {
        let shares = self.shares(levels);
        let mut sum = 0.0;
        let mut add = |share: &f64| {
            sum += share;
            sum
        };
        let ends: Vec<f64> = shares[range.clone()].iter().map(&mut add).collect();
        let times = levels[range].iter().map(|level| level.t).collect();
        (sum >= 1e-6).then_some(TimeSampler::Shares { times, ends })
    }

    /// The share of each level.
    fn shares(&self, levels: &[Level]) -> Vec<f64> {
        let count = levels.len() as f64;
        match *self {
            Self::Uniform => vec![1.0 / count; levels.len()],
            Self::Shifted { shift } => {
                // The inverse of the shift.
                let before = |t: f64| t / (shift - (shift - 1.0) * t);
                let share = |k: usize| before((k + 1) as f64 / count) - before(k as f64 / count);
                (0..levels.len()).map(share).collect()
            }
            Self::LogNormal { mean, std } => {
                let places: Vec<f64> = levels.iter().map(|level| (-level.lambda() - mean) / std).collect();
                // A level is nearest up to the middles between it and its neighbours; the first and the last reach as far
                // outwards as inwards.
                let middles: Vec<f64> = places.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
                let share = |k: usize| match (k.checked_sub(1).map(|k| middles[k]), middles.get(k)) {
                    (Some(low), Some(high)) => normal_share(low, *high),
                    // No noise is infinitely far.
                    (None, Some(high)) => normal_share((2.0 * places[k] - high).min(places[k]), *high),
                    // All noise is infinitely far.
                    (Some(low), None) => normal_share(low, (2.0 * places[k] - low).max(places[k])),
                    (None, None) => 1.0,
                };
                (0..levels.len()).map(share).collect()
            }
        }
    }
}

/// The share of the standard normal distribution between two numbers, exact in both tails.
fn normal_share(low: f64, high: f64) -> f64 {
    let above = |x: f64| 0.5 * libm::erfc(x / std::f64::consts::SQRT_2);
    if low > 0.0 { above(low) - above(high) } else { above(-high) - above(-low) }
}
