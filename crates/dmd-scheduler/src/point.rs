use burn::tensor::Tensor;
use dmd_core::NoiseLevel;

/// A place on the noise axis where a sampler calls the network or ends a step, the same for every
/// sample of a batch: `x = alpha · x0 + sigma · eps` with `alpha² + sigma² = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The timestep that the network is told; some samplers take fractions of one.
    pub t: f64,
    /// Scale of the signal.
    pub alpha: f64,
    /// Deviation of the noise.
    pub sigma: f64,
}

impl Point {
    /// Where nothing is left of the noise.
    pub(crate) const CLEAN: Self = Self { t: 0.0, alpha: 1.0, sigma: 0.0 };

    /// The place whose noise is `ratio` times its signal.
    pub(crate) fn of_ratio(t: f64, ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { t, alpha, sigma: ratio * alpha }
    }

    /// `sigma / alpha`: the noise of the sample `x / alpha`, which k-diffusion and EDM call sigma.
    pub fn ratio(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the logarithm of the signal-to-noise ratio (Lu et al. 2022); infinite without noise.
    pub(crate) fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// ᾱ.
    pub(crate) fn product(&self) -> f64 {
        self.alpha * self.alpha
    }

    /// The level of every sample of a batch like `x`.
    pub(crate) fn level_like(&self, x: &Tensor<4>) -> NoiseLevel {
        let [batch, ..] = x.dims();
        let full = |value: f64| Tensor::<1>::full([batch], value, &x.device());
        NoiseLevel { t: full(self.t), alpha: full(self.alpha), sigma: full(self.sigma) }
    }
}
