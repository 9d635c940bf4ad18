//! Grids of fractional timesteps and of sigmas, as k-diffusion's samplers take them.

use crate::Spacing;

/// The value of a table at a fractional place, linear between entries, the ends' beyond them.
pub(crate) fn interpolate(table: &[f64], place: f64) -> f64 {
    let last = table.len() - 1;
    let place = place.clamp(0.0, last as f64);
    let low = (place as usize).min(last);
    let high = (low + 1).min(last);
    table[low] + (table[high] - table[low]) * (place - low as f64)
}

/// The fractional timestep whose logarithm of sigma is that of `sigma`.
pub(crate) fn timestep_of(sigma: f64, ratios: &[f64]) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let above = ratios.partition_point(|ratio| ratio.ln() <= wanted);
    let low = above.saturating_sub(1).min(ratios.len() - 2);
    let (low_log, high_log) = (ratios[low].ln(), ratios[low + 1].ln());
    low as f64 + ((low_log - wanted) / (low_log - high_log)).clamp(0.0, 1.0)
}

/// `count` sigmas from `max` down to `min`, equally spaced in the seventh root (Karras et al. 2022,
/// eq. 5).
pub(crate) fn karras(min: f64, max: f64, count: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    let at = |i: usize| i as f64 / (count.max(2) - 1) as f64;
    (0..count).map(|i| (high + at(i) * (low - high)).powf(RHO)).collect()
}

/// k-diffusion's timesteps, descending and possibly fractional; linspace has fractions.
pub(crate) fn fractional(spacing: Spacing, steps: usize, count: usize, offset: usize) -> Vec<f64> {
    (0..steps)
        .rev()
        .map(|i| match spacing {
            Spacing::Leading => (i * (count / steps) + offset) as f64,
            Spacing::Trailing => {
                let down = count as f64 - (steps - 1 - i) as f64 * count as f64 / steps as f64;
                down.round_ties_even() - 1.0
            }
            Spacing::Linspace => i as f64 * (count - 1) as f64 / (steps.max(2) - 1) as f64,
        })
        .collect()
}

/// The timesteps of the multi-step solvers: as if there were one more step, which ends at the data. Only the first
/// `kept` of `count` timesteps are used; trailing spacing keeps its stride and has fewer steps then.
pub(crate) fn open_ended(
    spacing: Spacing,
    steps: usize,
    kept: usize,
    count: usize,
    offset: usize,
) -> Vec<f64> {
    let descending = (1..=steps).rev();
    match spacing {
        Spacing::Leading => descending.map(|i| (i * (kept / (steps + 1)) + offset) as f64).collect(),
        Spacing::Trailing => {
            let down = |i: usize| kept as f64 - i as f64 * count as f64 / steps as f64;
            let times = (0..steps).map(down).take_while(|t| *t > 0.0);
            times.map(|t| (t.round_ties_even() - 1.0).max(0.0)).collect()
        }
        Spacing::Linspace => {
            descending.map(|i| (i as f64 * (kept - 1) as f64 / steps as f64).round_ties_even()).collect()
        }
    }
}
