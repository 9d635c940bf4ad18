use burn::module::Module;
use burn::tensor::Tensor;

use crate::{Condition, Denoiser, NoiseLevel};

/// A denoiser frozen at one level: `G(z) = denoise(noise_scale · z, level)`.
///
/// DDPM (Stable Diffusion): `t = 999`, `noise_scale = 1`. EDM: `t = sigma = noise_scale = 80`.
#[derive(Module, Debug)]
pub struct OneStep<D: Module> {
    /// The network, the same architecture as the teacher's.
    pub denoiser: D,
    t: f64,
    alpha: f64,
    sigma: f64,
    noise_scale: f64,
}

impl<D: Denoiser + Module> OneStep<D> {
    /// Freezes `denoiser` at time `t` with signal scale `alpha` and noise `sigma`; its input is
    /// `noise_scale` times unit noise.
    pub fn new(denoiser: D, t: f64, alpha: f64, sigma: f64, noise_scale: f64) -> Self {
        Self { denoiser, t, alpha, sigma, noise_scale }
    }

    /// The time the network is called at.
    pub fn timestep(&self) -> f64 {
        self.t
    }

    /// The level at which the network is called, for `batch` samples like `z`.
    fn level(&self, z: &Tensor<4>) -> NoiseLevel {
        let device = z.device();
        let [batch, ..] = z.dims();
        NoiseLevel {
            t: Tensor::full([batch], self.t, &device),
            alpha: Tensor::full([batch], self.alpha, &device),
            sigma: Tensor::full([batch], self.sigma, &device),
        }
    }

    /// One clean sample per row of unit noise `z: [batch, channels, height, width]`.
    pub fn generate(&self, z: Tensor<4>, condition: &D::Condition) -> Tensor<4> {
        let level = self.level(&z);
        let [batch, ..] = z.dims();
        self.denoiser.denoise(z * self.noise_scale, &level, &condition.expand(batch))
    }
}
