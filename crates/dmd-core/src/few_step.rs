use burn::module::Module;
use burn::tensor::Tensor;

use crate::{Condition, Denoiser, NoiseLevel};

/// A level at which a generator is called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLevel {
    /// The time that the network is told.
    pub t: f64,
    /// Scale of the signal.
    pub alpha: f64,
    /// Deviation of the noise.
    pub sigma: f64,
}

/// A denoiser called at a few fixed levels, with fresh noise between: DMD2's multi-step generator
/// (section 4.4). Stable Diffusion's four steps are t = 999, 749, 499, 249.
#[derive(Module, Debug)]
pub struct FewStep<D: Module> {
    /// The network, the same architecture as the teacher's.
    pub denoiser: D,
    #[module(skip)]
    levels: Vec<StepLevel>,
}

impl<D: Denoiser + Module> FewStep<D> {
    /// A generator of as many steps as there are levels, the noisiest first.
    ///
    /// # Panics
    ///
    /// If there is no level.
    pub fn new(denoiser: D, levels: Vec<StepLevel>) -> Self {
        assert!(!levels.is_empty(), "a generator has at least one step");
        Self { denoiser, levels }
    }

    /// The levels, the noisiest first.
    pub fn levels(&self) -> &[StepLevel] {
        &self.levels
    }

    /// The clean samples that one step predicts from its input `x_t: [batch, channels, height, width]`.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn call(&self, step: usize, x_t: Tensor<4>, condition: &D::Condition) -> Tensor<4> {
        let StepLevel { t, alpha, sigma } = self.levels[step];
        let device = x_t.device();
        let [batch, ..] = x_t.dims();
        let full = |value: f64| Tensor::<1>::full([batch], value, &device);
        let level = NoiseLevel { t: full(t), alpha: full(alpha), sigma: full(sigma) };
        self.denoiser.denoise(x_t, &level, &condition.expand(batch))
    }

    /// The input of a later step: clean samples with unit noise `eps` up to its level.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn renoise(&self, step: usize, x0: Tensor<4>, eps: Tensor<4>) -> Tensor<4> {
        let StepLevel { alpha, sigma, .. } = self.levels[step];
        x0 * alpha + eps * sigma
    }

    /// The input of a step as the generator itself makes it from unit noise `z`: DMD2's backward
    /// simulation, and what happens at inference. `draw` gives unit noise shaped like `z`, once per
    /// step before. Nothing is tracked.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn simulate(
        &self,
        step: usize,
        z: Tensor<4>,
        condition: &D::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
    ) -> Tensor<4> {
        assert!(step < self.levels.len(), "step {step} of {}", self.levels.len());
        if step == 0 {
            return z;
        }
        let plain = Self { denoiser: self.denoiser.valid(), levels: self.levels.clone() };
        let condition = condition.without_autodiff();
        let mut x_t = z;
        for done in 0..step {
            let x0 = plain.call(done, x_t, &condition);
            x_t = plain.renoise(done + 1, x0, draw());
        }
        x_t
    }

    /// Samples of unit noise, in all steps; gradients reach the last call only.
    pub fn generate(
        &self,
        z: Tensor<4>,
        condition: &D::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
    ) -> Tensor<4> {
        let last = self.levels.len() - 1;
        let x_t = self.simulate(last, z, condition, draw);
        self.call(last, x_t, condition)
    }
}
