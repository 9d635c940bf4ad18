//! A sampler's way from noise to data: where the network is called, and the steps between.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use dmd_core::{Denoiser, Level};

use crate::Error;
use crate::solver::{Memory, Solver};

/// How many times, or at which timesteps, a sampler calls the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steps {
    /// So many, spread as the configuration says.
    Count(usize),
    /// These, descending.
    Timesteps(Vec<usize>),
}

impl From<usize> for Steps {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<Vec<usize>> for Steps {
    fn from(timesteps: Vec<usize>) -> Self {
        Self::Timesteps(timesteps)
    }
}

/// One call of the network and where it leads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub(crate) from: Level,
    pub(crate) to: Level,
    /// TCD's place below `to`, from which fresh noise leads back up to it; for other samplers `to` itself.
    pub(crate) via: Level,
}

/// A sampler's plan, made by [`SchedulerConfig::walk`](crate::SchedulerConfig::walk).
#[derive(Debug, Clone, PartialEq)]
pub struct Walk {
    pub(crate) solver: Solver,
    /// One per step; some samplers call the network more often (see [`Self::calls`]).
    pub(crate) steps: Vec<Step>,
    /// What unit noise is multiplied by before the first call.
    pub(crate) initial_scale: f64,
}

/// Draws unit noise shaped like the latents, one independent row per sample: for samplers that
/// [draw noise](crate::Sampler::draws_noise).
pub type FreshNoise<'a> = &'a mut dyn FnMut() -> Tensor<4>;

impl Walk {
    /// The network's timesteps, in order, one per call.
    pub fn timesteps(&self) -> Vec<f64> {
        self.calls().iter().map(|step| step.from.t).collect()
    }

    /// The steps, and the second calls of the samplers that correct a step from its end: PNDM its
    /// first, Heun every one but the last.
    fn calls(&self) -> Vec<Step> {
        let mut calls = Vec::with_capacity(2 * self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            calls.push(*step);
            let corrected = match self.solver {
                Solver::Pndm => i == 0,
                Solver::Heun => true,
                _ => false,
            };
            if let Some(next) = self.steps.get(i + 1).filter(|_| corrected) {
                calls.push(Step { from: next.from, to: next.from, via: next.from });
            }
        }
        calls
    }

    /// The walk without its first steps, for pictures that start from another one: `strength` 1 is
    /// the whole walk, 0 none of it.
    ///
    /// # Errors
    ///
    /// [`Error::Strength`] unless it is within `0..=1` and leaves at least one step.
    pub fn with_strength(mut self, strength: f64) -> Result<Self, Error> {
        let steps = self.steps.len();
        let kept = (steps as f64 * strength) as usize; // rounded down, as diffusers does
        if !(0.0..=1.0).contains(&strength) || kept == 0 {
            return Err(Error::Strength { strength, steps });
        }
        self.steps.drain(..steps - kept);
        Ok(self)
    }

    /// Where the network is called first.
    pub fn first(&self) -> Level {
        self.steps.first().map_or(Level::CLEAN, |step| step.from)
    }

    /// The input of the first call, from unit noise.
    pub fn start(&self, z: Tensor<4>) -> Tensor<4> {
        if self.initial_scale == 1.0 { z } else { z * self.initial_scale }
    }

    /// The input of the first call, from clean latents and unit noise.
    pub fn start_from(&self, x0: Tensor<4>, z: Tensor<4>) -> Tensor<4> {
        self.first().add_noise(x0, z)
    }

    /// Walks `x` (see [`Self::start`]) to a clean sample. After each call `on_step` receives the
    /// number of calls done and the clean sample predicted, and may break off, upon which `None` is
    /// returned. `draw` is called by samplers that draw noise only.
    pub fn run<D: Denoiser>(
        &self,
        denoiser: &D,
        mut x: Tensor<4>,
        condition: &D::Condition,
        draw: FreshNoise<'_>,
        mut on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Option<Tensor<4>> {
        let mut memory = Memory::default();
        let calls = self.calls();
        for (call, step) in calls.iter().enumerate() {
            let x0_hat = denoiser.denoise(x.clone(), &step.from.like(&x), condition);
            if on_step(call + 1, &x0_hat).is_break() {
                return None;
            }
            x = self.solver.step(&calls, call, x, x0_hat, &mut memory, draw);
        }
        Some(x)
    }
}
