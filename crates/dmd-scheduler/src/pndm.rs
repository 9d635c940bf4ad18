//! PNDM in its purely multi-step form (PLMS, Liu et al. 2022; diffusers' `PNDMScheduler` with
//! `skip_prk_steps`): the sampler of Stable Diffusion 1.5's own configuration and of DMD's pairs.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::Denoiser;

use crate::{Error, SchedulerConfig};

/// The network's timesteps: `steps` of them and one more call, the second one twice
/// (`981, 961, 961, 941, ..`).
///
/// # Errors
///
/// [`Error::Steps`] when the schedule has not as many times.
pub fn timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<usize>, Error> {
    let mut times = config.timesteps(steps)?;
    if let Some(second) = times.get(1).copied() {
        times.insert(1, second);
    }
    Ok(times)
}

/// Eq. 9 of the paper: from `x` at `from` to `to` (both ᾱ) along `eps`.
fn transfer(x: Tensor<4>, eps: Tensor<4>, from: f64, to: f64) -> Tensor<4> {
    let denominator = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
    x * (to / from).sqrt() - eps * ((to - from) / denominator)
}

/// Walks `x` from pure noise to a clean sample with `steps + 1` network calls. `on_step` is as for
/// [`ddim::sample`](crate::ddim::sample).
///
/// # Errors
///
/// [`Error::Steps`] when the schedule has not as many times.
pub fn sample<D: Denoiser>(
    denoiser: &D,
    config: &SchedulerConfig,
    steps: usize,
    mut x: Tensor<4>,
    condition: &D::Condition,
    mut on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
) -> Result<Option<Tensor<4>>, Error> {
    let schedule = config.schedule();
    let stride = schedule.count() / steps.max(1);
    let times = timesteps(config, steps)?;
    let product = |timestep: Option<usize>| match timestep {
        Some(timestep) => schedule.alpha_cumprod(timestep),
        None => config.final_alpha_sigma(&schedule).0.powi(2),
    };
    let mut history: Vec<Tensor<4>> = Vec::new();
    let mut first: Option<Tensor<4>> = None;
    for (call, timestep) in times.iter().copied().enumerate() {
        let level = schedule.level_like(timestep, &x);
        let x0_hat = denoiser.denoise(x.clone(), &level, condition);
        let (alpha, sigma) = schedule.alpha_sigma(timestep);
        let eps = (x.clone() - x0_hat.clone() * alpha) / sigma;

        let e = |back: usize| history[history.len() - back].clone();
        let (slope, from, to) = match call {
            // A trial step, and its correction by the mean slope from the same start (Heun).
            0 => {
                first = Some(x.clone());
                (eps.clone(), Some(timestep), timestep.checked_sub(stride))
            }
            1 => ((eps.clone() + e(1)) * 0.5, Some(timestep + stride), Some(timestep)),
            _ => {
                let slope = match history.len() {
                    1 => (eps.clone() * 3.0 - e(1)) / 2.0,
                    2 => (eps.clone() * 23.0 - e(1) * 16.0 + e(2) * 5.0) / 12.0,
                    _ => (eps.clone() * 55.0 - e(1) * 59.0 + e(2) * 37.0 - e(3) * 9.0) / 24.0,
                };
                (slope, Some(timestep), timestep.checked_sub(stride))
            }
        };
        let start = match (call, first.take()) {
            (1, Some(first)) => first,
            (_, kept) => {
                first = kept;
                x
            }
        };
        x = transfer(start, slope, product(from), product(to));
        if call != 1 {
            history.push(eps);
            if history.len() > 3 {
                history.remove(0);
            }
        }
        if on_step(call + 1, &x0_hat).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(x))
}
