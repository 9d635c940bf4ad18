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

/// A per-sample factor `[batch]` as `[batch, 1, .., 1]`, ready to be multiplied with `[batch, ..]`.
pub fn per_sample<const D: usize>(values: Tensor<1>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = values.dims()[0];
    values.reshape(shape)
}
