use serde::{Deserialize, Serialize};

use crate::Error;

/// How a sampler's few timesteps are spread over the schedule's many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of `count / steps`, plus an offset (Stable Diffusion 1.x, offset 1).
    #[default]
    Leading,
    /// Down from the very last timestep.
    Trailing,
    /// Equal steps from 0 to the last timestep.
    Linspace,
}

impl Spacing {
    /// `steps` timesteps of `count`, descending; the same numbers as diffusers.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`] when `steps` is 0 or above `count`.
    pub fn timesteps(self, steps: usize, count: usize, offset: usize) -> Result<Vec<usize>, Error> {
        if steps == 0 || steps > count {
            return Err(Error::Steps { steps, max: count });
        }
        let mut ascending: Vec<usize> = match self {
            Self::Leading => (0..steps).map(|i| (i * (count / steps) + offset).min(count - 1)).collect(),
            Self::Trailing => (0..steps)
                .map(|i| {
                    let down = count as f64 - i as f64 * count as f64 / steps as f64;
                    (down.round_ties_even() as usize).max(1) - 1
                })
                .rev()
                .collect(),
            Self::Linspace => (0..steps)
                .map(|i| {
                    let share = i as f64 / (steps.max(2) - 1) as f64;
                    (share * (count - 1) as f64).round_ties_even() as usize
                })
                .collect(),
        };
        ascending.reverse();
        Ok(ascending)
    }
}
