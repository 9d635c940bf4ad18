//! DDIM (Song et al. 2021), deterministic (`eta = 0`): the same steps as diffusers.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::Denoiser;

use crate::{DiscreteSchedule, Error, SchedulerConfig};

/// One step of the walk: the noise implied by `x0_hat` at `from` is carried to `to`, whose scale
/// and noise are `(alpha, sigma)` pairs.
///
/// # Shapes
///
/// `x_t` and `x0_hat`: `[batch, ..]`; the result likewise.
pub fn step<const D: usize>(
    x_t: Tensor<D>,
    x0_hat: Tensor<D>,
    from: (f64, f64),
    to: (f64, f64),
) -> Tensor<D> {
    let eps = (x_t - x0_hat.clone() * from.0) / from.1;
    x0_hat * to.0 + eps * to.1
}

/// Walks `x` from pure noise to a clean sample in `steps` steps. After each step `on_step`
/// receives the number of steps done and the predicted clean sample, and may break off, upon which
/// `None` is returned.
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
    let schedule: DiscreteSchedule = config.schedule();
    let stride = schedule.count() / steps.max(1);
    for (done, timestep) in config.timesteps(steps)?.into_iter().enumerate() {
        let x0_hat = denoiser.denoise(x.clone(), &schedule.level_like(timestep, &x), condition);
        let to = match timestep.checked_sub(stride) {
            Some(previous) => schedule.alpha_sigma(previous),
            None => config.final_alpha_sigma(&schedule),
        };
        x = step(x, x0_hat.clone(), schedule.alpha_sigma(timestep), to);
        if on_step(done + 1, &x0_hat).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(x))
}
