//! EDM's deterministic second-order sampler (Karras et al. 2022, algorithm 1).

use burn::tensor::Tensor;
use dmd_core::{Denoiser, NoiseLevel, NoiseSchedule};

use crate::KarrasSchedule;

/// Walks `x`, already scaled by `sigma_max`, down `steps` levels of the Karras grid and to 0.
/// `2 · steps − 1` network calls.
pub fn sample<D: Denoiser>(
    denoiser: &D,
    schedule: &KarrasSchedule,
    steps: usize,
    mut x: Tensor<4>,
    condition: &D::Condition,
) -> Tensor<4> {
    let [batch, ..] = x.dims();
    let device = x.device();
    let mut sigmas = schedule.sigmas(steps);
    sigmas.reverse();
    sigmas.push(0.0);
    let slope = |x: &Tensor<4>, sigma: f64| {
        let level: NoiseLevel = schedule.level(Tensor::full([batch], sigma, &device));
        (x.clone() - denoiser.denoise(x.clone(), &level, condition)) / sigma
    };
    for pair in sigmas.windows(2) {
        let (sigma, next) = (pair[0], pair[1]);
        let d = slope(&x, sigma);
        let euler = x.clone() + d.clone() * (next - sigma);
        x = if next == 0.0 {
            euler
        } else {
            let d_next = slope(&euler, next);
            x + (d + d_next) * (0.5 * (next - sigma))
        };
    }
    x
}
