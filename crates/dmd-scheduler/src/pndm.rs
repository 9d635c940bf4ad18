//! PNDM in its purely multi-step form (PLMS, Liu et al. 2022; diffusers' `PNDMScheduler` with
//! `skip_prk_steps`): the sampler of Stable Diffusion 1.5's own configuration and of DMD's pairs.

use burn::tensor::Tensor;

use crate::solver::{Memory, noise_of};
use crate::walk::Step;

/// Eq. 9 of the paper: from `x` at `from` to `to` (both ᾱ) along `eps`.
fn transfer(x: Tensor<4>, eps: Tensor<4>, from: f64, to: f64) -> Tensor<4> {
    let denominator = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
    x * (to / from).sqrt() - eps * ((to - from) / denominator)
}

/// The second call is at the end of the first step and corrects it from the same start (Heun);
/// after that, slopes of up to four calls are combined.
pub(crate) fn step(
    steps: &[Step],
    call: usize,
    x: Tensor<4>,
    x0: Tensor<4>,
    memory: &mut Memory,
) -> Tensor<4> {
    let Step { from, to, .. } = steps[call];
    let eps = noise_of(x.clone(), x0, from);
    let e = |memory: &Memory, back: usize| memory.outputs[memory.outputs.len() - back].clone();
    if call == 1
        && let Some(start) = memory.start.take()
    {
        let slope = (eps + e(memory, 1)) * 0.5;
        return transfer(start, slope, steps[0].from.alpha.powi(2), from.alpha.powi(2));
    }
    if call == 0 {
        memory.start = Some(x.clone());
    }
    memory.keep(eps, 4);
    let slope = match memory.outputs.len() {
        1 => e(memory, 1),
        2 => (e(memory, 1) * 3.0 - e(memory, 2)) / 2.0,
        3 => (e(memory, 1) * 23.0 - e(memory, 2) * 16.0 + e(memory, 3) * 5.0) / 12.0,
        _ => (e(memory, 1) * 55.0 - e(memory, 2) * 59.0 + e(memory, 3) * 37.0 - e(memory, 4) * 9.0) / 24.0,
    };
    transfer(x, slope, from.alpha.powi(2), to.alpha.powi(2))
}
