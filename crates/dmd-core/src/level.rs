use burn::tensor::Tensor;

/// Where a sample stands on the noise axis: `x_t = alpha · x0 + sigma · eps`.
///
/// One value per sample, each tensor `[batch]`. Looked up once in a
/// [`NoiseSchedule`](crate::NoiseSchedule), then travels with `x_t`.
#[derive(Debug, Clone)]
pub struct NoiseLevel {
    /// Time in the schedule's own unit: a whole timestep (DDPM) or sigma (EDM).
    pub t: Tensor<1>,
    /// Signal scale (the scale itself, never ᾱ).
    pub alpha: Tensor<1>,
    /// Standard deviation of the noise.
    pub sigma: Tensor<1>,
}

impl NoiseLevel {
    /// The diffused sample `alpha · x0 + sigma · eps`.
    ///
    /// # Shapes
    ///
    /// `x0` and `eps`: `[batch, ..]`, the batch as long as this level.
    pub fn add_noise<const D: usize>(&self, x0: Tensor<D>, eps: Tensor<D>) -> Tensor<D> {
        x0 * per_sample(self.alpha.clone()) + eps * per_sample(self.sigma.clone())
    }

    /// Signal-to-noise ratio `(alpha / sigma)²`, `[batch]`.
    pub fn snr(&self) -> Tensor<1> {
        (self.alpha.clone() / self.sigma.clone()).square()
    }

    /// The levels of `self` followed by those of `other`.
    pub fn cat(&self, other: &Self) -> Self {
        let join = |a: &Tensor<1>, b: &Tensor<1>| Tensor::cat(vec![a.clone(), b.clone()], 0);
        Self {
            t: join(&self.t, &other.t),
            alpha: join(&self.alpha, &other.alpha),
            sigma: join(&self.sigma, &other.sigma),
        }
    }
}

/// A noise level that is the same for every sample of a batch: [`NoiseLevel`] as three numbers.
///
/// A sampler calls the network and ends its steps at such levels, and a generator is called at them. The noise of
/// the variance-preserving family is `alpha² + sigma² = 1`; of EDM's it is `alpha = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The time that the network is given: a timestep, whole or fractional, or sigma (EDM).
    pub t: f64,
    /// Signal scale (the scale itself, never ᾱ).
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
}

impl Level {
    /// A clean sample: all signal, no noise.
    pub const CLEAN: Self = Self { t: 0.0, alpha: 1.0, sigma: 0.0 };

    /// A level of the EDM family: `alpha = 1`, and the time is sigma.
    pub fn of_sigma(sigma: f64) -> Self {
        Self { t: sigma, alpha: 1.0, sigma }
    }

    /// The variance-preserving level at time `t` with `sigma / alpha = ratio`.
    pub fn of_ratio(t: f64, ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { t, alpha, sigma: ratio * alpha }
    }

    /// `sigma / alpha`: the noise of the sample `x / alpha`, which k-diffusion and EDM call sigma.
    pub fn ratio(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// `ln(alpha / sigma)`: half the logarithm of the signal-to-noise ratio (Lu et al. 2022); infinite without noise.
    pub fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The diffused sample `alpha · x0 + sigma · eps`, of tensors of one shape.
    pub fn add_noise<const D: usize>(&self, x0: Tensor<D>, eps: Tensor<D>) -> Tensor<D> {
        x0 * self.alpha + eps * self.sigma
    }

    /// This level for every sample of `x: [batch, ..]`, on the device of `x`.
    pub fn like<const D: usize>(&self, x: &Tensor<D>) -> NoiseLevel {
        let full = |value: f64| Tensor::<1>::full([x.dims()[0]], value, &x.device());
        NoiseLevel { t: full(self.t), alpha: full(self.alpha), sigma: full(self.sigma) }
    }
}

/// A per-sample factor `[batch]` as `[batch, 1, .., 1]`, ready to be multiplied with `[batch, ..]`.
pub fn per_sample<const D: usize>(values: Tensor<1>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = values.dims()[0];
    values.reshape(shape)
}
