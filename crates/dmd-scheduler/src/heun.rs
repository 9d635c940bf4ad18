//! EDM's deterministic second-order sampler (Karras et al. 2022, algorithm 1).

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::{Denoiser, NoiseLevel, NoiseSchedule};

use crate::KarrasSchedule;

/// Walks `x`, already scaled by `sigma_max`, down `steps` levels of the Karras grid and to 0.
/// `2 · steps − 1` network calls.
pub fn sample<D: Denoiser>(
    denoiser: &D,
    schedule: &KarrasSchedule,
    steps: usize,
    x: Tensor<4>,
    condition: &D::Condition,
) -> Tensor<4> {
    let never = &mut |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
    match walk(denoiser, schedule, steps, x, condition, never) {
        ControlFlow::Continue(x0) | ControlFlow::Break(x0) => x0,
    }
}

/// [`sample`], watched: after each network call `on_step` receives the number of calls and the clean samples
/// predicted; when it breaks off, the result is `None`.
pub fn sample_watched<D: Denoiser>(
    denoiser: &D,
    schedule: &KarrasSchedule,
    steps: usize,
    x: Tensor<4>,
    condition: &D::Condition,
    on_step: &mut dyn FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
) -> Option<Tensor<4>> {
    walk(denoiser, schedule, steps, x, condition, on_step).continue_value()
}

fn walk<D: Denoiser>(
    denoiser: &D,
    schedule: &KarrasSchedule,
    steps: usize,
    mut x: Tensor<4>,
    condition: &D::Condition,
    on_step: &mut dyn FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
) -> ControlFlow<Tensor<4>, Tensor<4>> {
    let [batch, ..] = x.dims();
    let device = x.device();
    let mut sigmas = schedule.sigmas(steps);
    sigmas.reverse();
    sigmas.push(0.0);
    let mut calls = 0;
    let mut slope = |x: &Tensor<4>, sigma: f64| {
        let level: NoiseLevel = schedule.level(Tensor::full([batch], sigma, &device));
        let x0_hat = denoiser.denoise(x.clone(), &level, condition);
        calls += 1;
        let slope = (x.clone() - x0_hat.clone()) / sigma;
        match on_step(calls, &x0_hat) {
            ControlFlow::Continue(()) => ControlFlow::Continue(slope),
            ControlFlow::Break(()) => ControlFlow::Break(x0_hat),
        }
    };
    for pair in sigmas.windows(2) {
        let (sigma, next) = (pair[0], pair[1]);
        let d = slope(&x, sigma)?;
        let euler = x.clone() + d.clone() * (next - sigma);
        x = if next == 0.0 {
            euler
        } else {
            let d_next = slope(&euler, next)?;
            x + (d + d_next) * (0.5 * (next - sigma))
        };
    }
    ControlFlow::Continue(x)
}
