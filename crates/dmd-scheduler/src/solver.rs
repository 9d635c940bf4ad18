//! The arithmetic between two calls of the network, for every sampler, on the clean sample that the
//! network predicts. Scalars are f64 on the host.

use burn::tensor::Tensor;

use crate::walk::{FreshNoise, Step};
use crate::{dpm, pndm, unipc};
use dmd_core::Level;

/// A sampler with its options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Solver {
    Ddim,
    Ddpm(Variance),
    Pndm,
    Euler,
    EulerAncestral,
    Heun,
    DpmPlusPlus(dpm::Options),
    UniPc(unipc::Options),
    Lcm { timestep_scaling: f64 },
    Tcd { eta: f64 },
}

/// The deviation of DDPM's fresh noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variance {
    /// The posterior's.
    Small,
    /// The forward step's.
    Large,
}

/// What a solver keeps of earlier calls.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Network outputs, newest last.
    pub(crate) outputs: Vec<Tensor<4>>,
    /// The sample that a two-part step started from.
    pub(crate) start: Option<Tensor<4>>,
    /// Order of the last step.
    pub(crate) order: usize,
}

impl Memory {
    /// Keeps `output` and the `count − 1` before it.
    pub(crate) fn keep(&mut self, output: Tensor<4>, count: usize) {
        self.outputs.push(output);
        if self.outputs.len() > count {
            self.outputs.remove(0);
        }
    }
}

impl Solver {
    /// The sample at the end of a call's step.
    pub(crate) fn step(
        self,
        steps: &[Step],
        call: usize,
        x: Tensor<4>,
        x0: Tensor<4>,
        memory: &mut Memory,
        draw: FreshNoise<'_>,
    ) -> Tensor<4> {
        let Step { from, to, via } = steps[call];
        match self {
            Self::Ddim | Self::Euler => straight(x, x0, from, to),
            Self::Ddpm(variance) => ddpm(x, x0, from, to, variance, draw),
            Self::Pndm => pndm::step(steps, call, x, x0, memory),
            Self::EulerAncestral => ancestral(x, x0, from, to, draw),
            Self::Heun => heun(steps, call, x, x0, memory),
            Self::DpmPlusPlus(options) => dpm::step(options, steps, call, x, x0, memory),
            Self::UniPc(options) => unipc::step(options, steps, call, x, x0, memory),
            Self::Lcm { timestep_scaling } => {
                lcm(call + 1 == steps.len(), x, x0, from, to, timestep_scaling, draw)
            }
            Self::Tcd { eta } => {
                let sample = straight(x, x0, from, via);
                // No noise is drawn for the last step, nor where none is wanted.
                if call + 1 == steps.len() || eta == 0.0 { sample } else { renoised(sample, via, to, draw) }
            }
        }
    }
}

/// The noise that a predicted clean sample implies.
pub(crate) fn noise_of(x: Tensor<4>, x0: Tensor<4>, at: Level) -> Tensor<4> {
    (x - x0 * at.alpha) / at.sigma
}

/// The implied noise is carried to the next place: DDIM's step, and in k-diffusion's coordinates
/// `x / alpha` Euler's.
fn straight(x: Tensor<4>, x0: Tensor<4>, from: Level, to: Level) -> Tensor<4> {
    let eps = noise_of(x, x0.clone(), from);
    x0 * to.alpha + eps * to.sigma
}

/// A sample with fresh noise from one level up to a noisier one of the same schedule, `alpha² + sigma² = 1`.
fn renoised(x: Tensor<4>, from: Level, to: Level, draw: FreshNoise<'_>) -> Tensor<4> {
    let kept = to.alpha / from.alpha;
    x * kept + draw() * (1.0 - kept * kept).max(0.0).sqrt()
}

/// The mean of `q(x_to | x_from, x0)` (Ho et al. 2020, eq. 7) and its noise.
fn ddpm(
    x: Tensor<4>,
    x0: Tensor<4>,
    from: Level,
    to: Level,
    variance: Variance,
    draw: FreshNoise<'_>,
) -> Tensor<4> {
    let (product, next) = (from.alpha.powi(2), to.alpha.powi(2));
    let alpha = product / next;
    let (rest, next_rest) = (1.0 - product, 1.0 - next);
    let mean = x0 * (next.sqrt() * (1.0 - alpha) / rest) + x * (alpha.sqrt() * next_rest / rest);
    if from.t <= 0.0 {
        return mean;
    }
    let variance = match variance {
        Variance::Small => next_rest / rest * (1.0 - alpha),
        Variance::Large => 1.0 - alpha,
    };
    // 1e-20 is diffusers' floor for the last step, whose posterior has no variance.
    mean + draw() * variance.max(1e-20).sqrt()
}

/// Euler to less noise than the step's end has, and fresh noise up to it (k-diffusion).
fn ancestral(x: Tensor<4>, x0: Tensor<4>, from: Level, to: Level, draw: FreshNoise<'_>) -> Tensor<4> {
    let (here, there) = (from.ratio(), to.ratio());
    let up = (there.powi(2) * (here.powi(2) - there.powi(2)) / here.powi(2)).sqrt();
    let down = (there.powi(2) - up.powi(2)).max(0.0).sqrt();
    let eps = noise_of(x, x0.clone(), from);
    (x0 + eps * down + draw() * up) * to.alpha
}

/// Calls alternate: a trial step, and its correction by the mean of both slopes. A step to the clean
/// sample is not corrected.
fn heun(steps: &[Step], call: usize, x: Tensor<4>, x0: Tensor<4>, memory: &mut Memory) -> Tensor<4> {
    let Step { from, to, .. } = steps[call];
    let slope = noise_of(x.clone(), x0.clone(), from);
    match (memory.start.take(), memory.outputs.pop()) {
        (Some(start), Some(first)) => {
            let length = from.ratio() - steps[call - 1].from.ratio();
            (start + (slope + first) * (0.5 * length)) * from.alpha
        }
        _ => {
            memory.start = Some(x.clone() / from.alpha);
            memory.outputs = vec![slope];
            straight(x, x0, from, to)
        }
    }
}

/// A consistency step: the boundary condition's mix, then fresh noise up to the next place.
fn lcm(
    last: bool,
    x: Tensor<4>,
    x0: Tensor<4>,
    from: Level,
    to: Level,
    timestep_scaling: f64,
    draw: FreshNoise<'_>,
) -> Tensor<4> {
    const SIGMA_DATA: f64 = 0.5; // Luo et al. 2023
    let t = from.t * timestep_scaling;
    let both = t * t + SIGMA_DATA * SIGMA_DATA;
    let denoised = x0 * (t / both.sqrt()) + x * (SIGMA_DATA * SIGMA_DATA / both);
    if last { denoised } else { denoised * to.alpha + draw() * to.sigma }
}
