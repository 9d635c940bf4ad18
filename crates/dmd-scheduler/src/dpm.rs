//! DPM-Solver++ in its multi-step form, first and second order (Lu et al. 2022, algorithm 2).

use burn::tensor::Tensor;

use crate::solver::Memory;
use crate::walk::Step;

/// How the second order's slope is weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correction {
    Midpoint,
    Heun,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Options {
    /// 1 or 2.
    pub(crate) order: usize,
    pub(crate) correction: Correction,
    /// First order in the last step of few (fewer than 15).
    pub(crate) lower_order_final: bool,
    /// First order in the last step, always.
    pub(crate) euler_at_final: bool,
}

/// Steps from which on the last one keeps its order (diffusers' limit).
const MANY: usize = 15;

pub(crate) fn step(
    options: Options,
    steps: &[Step],
    call: usize,
    x: Tensor<4>,
    x0: Tensor<4>,
    memory: &mut Memory,
) -> Tensor<4> {
    let Step { from, to, .. } = steps[call];
    let previous = memory.outputs.last().cloned();
    memory.keep(x0.clone(), 1);
    let h = to.lambda() - from.lambda();
    let phi = (-h).exp_m1(); // −1 at the clean end
    let base = x * (to.sigma / from.sigma) - x0.clone() * (to.alpha * phi);
    let last = call + 1 == steps.len();
    let first_order = options.order == 1
        || last
            && (options.euler_at_final || options.lower_order_final && steps.len() < MANY || to.sigma == 0.0);
    let Some(previous) = previous.filter(|_| !first_order) else {
        return base;
    };
    let r = (from.lambda() - steps[call - 1].from.lambda()) / h;
    let slope = (x0 - previous) / r;
    match options.correction {
        Correction::Midpoint => base - slope * (0.5 * to.alpha * phi),
        Correction::Heun => base + slope * (to.alpha * (phi / h + 1.0)),
    }
}
