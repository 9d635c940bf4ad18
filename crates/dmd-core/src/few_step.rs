use std::convert::Infallible;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::{Condition, Denoiser, Level};

/// A denoiser called at one or a few fixed levels, with fresh noise between.
///
/// One step (DMD): `G(z) = denoise(noise_scale · z, level)`; DDPM (Stable Diffusion): `t = 999`,
/// `noise_scale = 1`; EDM: `t = sigma = noise_scale = 80`. Several (DMD2, section 4.4): Stable
/// Diffusion's four steps are t = 999, 749, 499, 249.
#[derive(Module, Debug)]
pub struct FewStep<D: Module> {
    /// The network, the same architecture as the teacher's.
    pub denoiser: D,
    #[module(skip)]
    levels: Vec<Level>,
    #[module(skip)]
    noise_scale: f64,
}

impl<D: Denoiser + Module> FewStep<D> {
    /// A generator of as many steps as there are levels, the noisiest first; its first input is unit noise.
    ///
    /// # Panics
    ///
    /// If there is no level.
    pub fn new(denoiser: D, levels: Vec<Level>) -> Self {
        assert!(!levels.is_empty(), "a generator has at least one step");
        Self { denoiser, levels, noise_scale: 1.0 }
    }

    /// The same generator with a first input of `noise_scale` times unit noise: EDM's sigma_max.
    pub fn with_noise_scale(self, noise_scale: f64) -> Self {
        Self { noise_scale, ..self }
    }

    /// A snapshot without autodiff.
    pub fn plain(&self) -> Self {
        self.map_denoiser(|denoiser| denoiser.valid())
    }

    /// The same generator with what `change` makes of its network.
    pub fn map_denoiser(&self, change: impl FnOnce(D) -> D) -> Self {
        let denoiser = change(self.denoiser.clone());
        Self { denoiser, levels: self.levels.clone(), noise_scale: self.noise_scale }
    }

    /// The levels, the noisiest first.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The clean samples that one step predicts from its input `x_t: [batch, channels, height, width]`.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn call(&self, step: usize, x_t: Tensor<4>, condition: &D::Condition) -> Tensor<4> {
        let [batch, ..] = x_t.dims();
        let level = self.levels[step].like(&x_t);
        self.denoiser.denoise(x_t, &level, &condition.expand(batch))
    }

    /// The input of a later step: clean samples with unit noise `eps` up to its level.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn renoise(&self, step: usize, x0: Tensor<4>, eps: Tensor<4>) -> Tensor<4> {
        self.levels[step].add_noise(x0, eps)
    }

    /// Makes the first `steps` calls, one after the other, from unit noise `z`; `draw` gives unit noise shaped like `z`,
    /// once between two calls. After each call `on_step` receives the number of calls and the clean samples predicted;
    /// what it breaks off with is the result. Gradients reach the last call only.
    ///
    /// # Panics
    ///
    /// If `steps` is 0 or more than there are.
    pub fn walk<B>(
        &self,
        steps: usize,
        z: Tensor<4>,
        condition: &D::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
        on_step: &mut dyn FnMut(usize, &Tensor<4>) -> ControlFlow<B>,
    ) -> ControlFlow<B, Tensor<4>> {
        assert!((1..=self.levels.len()).contains(&steps), "{steps} steps of {}", self.levels.len());
        let mut x0 = self.first(z, condition);
        on_step(1, &x0)?;
        for step in 1..steps {
            x0 = self.call(step, self.renoise(step, x0.without_autodiff(), draw()), condition);
            on_step(step + 1, &x0)?;
        }
        ControlFlow::Continue(x0)
    }

    /// What the generator itself makes of unit noise `z` in its first `steps` calls: the clean samples that
    /// are renoised for the next one, in DMD2's backward simulation as at inference. `draw` is as in [`Self::walk`].
    /// Nothing is tracked.
    ///
    /// # Panics
    ///
    /// If `steps` is 0 or more than there are.
    pub fn simulate(
        &self,
        steps: usize,
        z: Tensor<4>,
        condition: &D::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
    ) -> Tensor<4> {
        let ControlFlow::Continue(x0) =
            self.plain().walk(steps, z, &condition.without_autodiff(), draw, &mut unwatched);
        x0
    }

    /// The clean samples that the first call makes of unit noise: all there is to a one-step generator.
    pub fn first(&self, z: Tensor<4>, condition: &D::Condition) -> Tensor<4> {
        self.call(0, z * self.noise_scale, condition)
    }

    /// Samples of unit noise, in all steps: [`Self::walk`] to the end.
    pub fn generate(
        &self,
        z: Tensor<4>,
        condition: &D::Condition,
        draw: &mut dyn FnMut() -> Tensor<4>,
    ) -> Tensor<4> {
        let ControlFlow::Continue(x0) = self.walk(self.levels.len(), z, condition, draw, &mut unwatched);
        x0
    }
}

/// For a walk that nobody looks at and nothing breaks off.
fn unwatched(_step: usize, _x0: &Tensor<4>) -> ControlFlow<Infallible> {
    ControlFlow::Continue(())
}
