use burn::tensor::{Device, Tensor, TensorData, activation::softmax};

use crate::{Denoiser, Noise, NoiseLevel};

/// A mixture of isotropic Gaussians, whose denoiser is known in closed form: an exact teacher.
///
/// A point of dimension `dim` is a sample `[dim, 1, 1]`. With responsibilities
/// `γ_k ∝ w_k N(x_t; α m_k, α²s_k² + σ²)`, the posterior mean is
/// `Σ γ_k [m_k + α s_k² / (α²s_k² + σ²) · (x_t − α m_k)]`.
#[derive(Debug, Clone)]
pub struct GaussianMixture {
    weights: Vec<f64>,
    means: Vec<Vec<f64>>,
    stds: Vec<f64>,
}

impl GaussianMixture {
    /// A mixture of components `(weight, mean, standard deviation)`; the weights are normalised.
    ///
    /// # Panics
    ///
    /// If there is no component, the means differ in length, or a weight or standard deviation is
    /// not positive.
    pub fn new(components: &[(f64, &[f64], f64)]) -> Self {
        assert!(!components.is_empty(), "a mixture needs a component");
        let dim = components[0].1.len();
        for (weight, mean, std) in components {
            assert_eq!(mean.len(), dim, "means of one mixture have one length");
            assert!(*weight > 0.0 && *std > 0.0, "weight {weight} and std {std} must be positive");
        }
        let total: f64 = components.iter().map(|c| c.0).sum();
        Self {
            weights: components.iter().map(|c| c.0 / total).collect(),
            means: components.iter().map(|c| c.1.to_vec()).collect(),
            stds: components.iter().map(|c| c.2).collect(),
        }
    }

    /// The number of coordinates of a point.
    pub fn dim(&self) -> usize {
        self.means[0].len()
    }

    /// The components' means.
    pub fn means(&self) -> &[Vec<f64>] {
        &self.means
    }

    /// The components' standard deviations.
    pub fn stds(&self) -> &[f64] {
        &self.stds
    }

    /// The components' weights, which sum to 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Mean of the whole mixture, one value per coordinate.
    pub fn mean(&self) -> Vec<f64> {
        (0..self.dim())
            .map(|d| {
                let terms = self.weights.iter().zip(&self.means);
                terms.map(|(w, m)| w * m[d]).sum()
            })
            .collect()
    }

    /// Variance of the whole mixture, one value per coordinate.
    pub fn variance(&self) -> Vec<f64> {
        let mean = self.mean();
        (0..self.dim())
            .map(|d| {
                let terms = self.weights.iter().zip(&self.means).zip(&self.stds);
                terms.map(|((w, m), s)| w * (s * s + (m[d] - mean[d]).powi(2))).sum()
            })
            .collect()
    }

    /// `count` exact samples, `[count, dim, 1, 1]`.
    pub fn sample(&self, count: usize, noise: &mut Noise, device: &Device) -> Tensor<4> {
        let dim = self.dim();
        let mut values = Vec::with_capacity(count * dim);
        for _ in 0..count {
            let mut u = noise.uniform(0.0..=1.0, 1)[0];
            let mut k = 0;
            while k + 1 < self.weights.len() && u > self.weights[k] {
                u -= self.weights[k];
                k += 1;
            }
            for (mean, n) in self.means[k].iter().zip(noise.normals(dim)) {
                values.push((mean + self.stds[k] * n) as f32);
            }
        }
        Tensor::from_data(TensorData::new(values, [count, dim, 1, 1]), device)
    }
}

impl Denoiser for GaussianMixture {
    type Condition = ();

    /// # Panics
    ///
    /// If `x_t` is not `[batch, dim, 1, 1]`.
    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, _condition: &()) -> Tensor<4> {
        let [batch, dim, height, width] = x_t.dims();
        assert_eq!(
            [dim, height, width],
            [self.dim(), 1, 1],
            "x_t of a {}-dimensional mixture is [batch, {}, 1, 1]",
            self.dim(),
            self.dim()
        );
        let device = x_t.device();
        let k = self.weights.len();
        let row = |values: Vec<f64>| {
            Tensor::<1>::from_data(TensorData::new(values.iter().map(|v| *v as f32).collect(), [k]), &device)
                .reshape([1, k, 1])
        };
        let log_weights = row(self.weights.iter().map(|w| w.ln()).collect());
        let variances = row(self.stds.iter().map(|s| s * s).collect());
        let flat: Vec<f32> = self.means.iter().flatten().map(|v| *v as f32).collect();
        let means = Tensor::<3>::from_data(TensorData::new(flat, [1, k, dim]), &device);

        let alpha = level.alpha.clone().reshape([batch, 1, 1]);
        let sigma = level.sigma.clone().reshape([batch, 1, 1]);
        let total = alpha.clone().square() * variances.clone() + sigma.square(); // [batch, k, 1]
        let offset = x_t.reshape([batch, 1, dim]) - alpha.clone() * means.clone(); // [batch, k, dim]
        let log_density = log_weights
            - offset.clone().square().sum_dim(2) / total.clone() * 0.5
            - total.clone().log() * (0.5 * dim as f64);
        let gamma = softmax(log_density, 1); // [batch, k, 1]
        let posterior = means + alpha * variances / total * offset;
        (gamma * posterior).sum_dim(1).reshape([batch, dim, 1, 1])
    }
}
