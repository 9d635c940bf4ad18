//! Fréchet distance between two sets of pictures, in f64, in one fixed feature space.

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation::relu};
use dmd_core::Noise;
use image::RgbImage;

use crate::data::to_tensor;

/// The feature space `random-conv-v1`: three 3×3 convolutions of stride 2 (16, 32 and 32
/// channels), weights drawn once from a fixed seed with He's deviation, ReLU after each; the
/// features are the last layer averaged over each quarter of the picture, 128 numbers. Height and
/// width must be multiples of 16.
///
/// Random convolutions keep edges, colours and their places apart; unlike a distance on raw pixels
/// they do not reward blur.
#[derive(Debug)]
pub struct RandomConv {
    weights: Vec<Tensor<4>>,
    device: Device,
}

/// Name of [`RandomConv`]'s feature space, quoted with every distance.
pub const FEATURE_SPACE: &str = "random-conv-v1";

impl RandomConv {
    /// The network on a device.
    pub fn new(device: &Device) -> Self {
        let mut noise = Noise::stream(20_231_129, FEATURE_SPACE);
        let weights = [(3, 16), (16, 32), (32, 32)].map(|(input, output)| {
            let std = (2.0 / (9.0 * input as f64)).sqrt();
            noise.normal([output, input, 3, 3], device) * std
        });
        Self { weights: weights.to_vec(), device: device.clone() }
    }

    /// One row of 128 features per picture.
    pub fn features(&self, pictures: &[RgbImage]) -> Vec<Vec<f64>> {
        let mut rows = Vec::with_capacity(pictures.len());
        for chunk in pictures.chunks(64) {
            let mut x = to_tensor(chunk, &self.device);
            for weight in &self.weights {
                let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
                x = relu(conv2d(x, weight.clone(), None, options));
            }
            let [batch, channels, height, width] = x.dims();
            let pooled = x.reshape([batch, channels, 2, height / 2, 2, width / 2]).mean_dims(&[3, 5]);
            let values: Vec<f64> = pooled.into_data().iter::<f64>().collect();
            rows.extend(values.chunks(values.len() / batch).map(<[f64]>::to_vec));
            debug_assert_eq!(rows.last().map(Vec::len), Some(4 * channels));
        }
        rows
    }
}

/// Mean and covariance (biased by none: divided by `n − 1`) of rows of features.
#[derive(Debug, Clone)]
pub struct Moments {
    mean: Vec<f64>,
    covariance: Vec<f64>,
}

impl Moments {
    /// The moments of at least two rows.
    ///
    /// # Panics
    ///
    /// If there are fewer than two rows.
    pub fn of(rows: &[Vec<f64>]) -> Self {
        assert!(rows.len() > 1, "a covariance needs two rows");
        let (n, d) = (rows.len() as f64, rows[0].len());
        let mean: Vec<f64> = (0..d).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / n).collect();
        let mut covariance = vec![0.0; d * d];
        for row in rows {
            for i in 0..d {
                for j in 0..d {
                    covariance[i * d + j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (n - 1.0);
                }
            }
        }
        Self { mean, covariance }
    }

    /// `|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½)` (Heusel et al. 2017).
    ///
    /// # Panics
    ///
    /// If the two differ in dimension.
    pub fn distance(&self, other: &Self) -> f64 {
        let d = self.mean.len();
        assert_eq!(d, other.mean.len(), "two sets of features of one space");
        let shift: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        let root = square_root(&self.covariance, d);
        let middle = multiply(&multiply(&root, &other.covariance, d), &root, d);
        let (values, _) = symmetric_eigen(&middle, d);
        let cross: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
        let trace = |m: &[f64]| (0..d).map(|i| m[i * d + i]).sum::<f64>();
        shift + trace(&self.covariance) + trace(&other.covariance) - 2.0 * cross
    }
}

fn multiply(a: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    let mut product = vec![0.0; d * d];
    for i in 0..d {
        for k in 0..d {
            let factor = a[i * d + k];
            for j in 0..d {
                product[i * d + j] += factor * b[k * d + j];
            }
        }
    }
    product
}

/// The symmetric square root of a positive semi-definite matrix.
fn square_root(matrix: &[f64], d: usize) -> Vec<f64> {
    let (values, vectors) = symmetric_eigen(matrix, d);
    let mut root = vec![0.0; d * d];
    for (k, value) in values.iter().enumerate() {
        let scale = value.max(0.0).sqrt();
        for i in 0..d {
            for j in 0..d {
                root[i * d + j] += scale * vectors[i * d + k] * vectors[j * d + k];
            }
        }
    }
    root
}

/// Eigenvalues, and eigenvectors as columns, of a symmetric matrix: cyclic Jacobi rotations.
fn symmetric_eigen(matrix: &[f64], d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut v = vec![0.0; d * d];
    for i in 0..d {
        v[i * d + i] = 1.0;
    }
    let total: f64 = a.iter().map(|x| x * x).sum();
    // Sweeps converge quadratically; 64 are far more than any matrix needs.
    for _ in 0..64 {
        let off: f64 =
            (0..d).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * d + j].powi(2)).sum();
        if off <= 1e-28 * total {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                rotate(&mut a, &mut v, d, (p, q));
            }
        }
    }
    ((0..d).map(|i| a[i * d + i]).collect(), v)
}

/// One Jacobi rotation: makes `a[p][q]` zero.
fn rotate(a: &mut [f64], v: &mut [f64], d: usize, (p, q): (usize, usize)) {
    let apq = a[p * d + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * d + q] - a[p * d + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..d {
        let (x, y) = (a[k * d + p], a[k * d + q]);
        a[k * d + p] = c * x - s * y;
        a[k * d + q] = s * x + c * y;
    }
    for k in 0..d {
        let (x, y) = (a[p * d + k], a[q * d + k]);
        a[p * d + k] = c * x - s * y;
        a[q * d + k] = s * x + c * y;
    }
    for k in 0..d {
        let (x, y) = (v[k * d + p], v[k * d + q]);
        v[k * d + p] = c * x - s * y;
        v[k * d + q] = s * x + c * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A known spectrum: `[[2, 1], [1, 2]]` has 1 and 3.
    #[test]
    fn eigenvalues_of_a_known_matrix() {
        let (mut values, _) = symmetric_eigen(&[2.0, 1.0, 1.0, 2.0], 2);
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14);
    }

    #[test]
    fn root_squared_is_the_matrix() {
        let d = 12;
        let factor = Noise::from_seed(3).normals(d * d);
        let transposed: Vec<f64> = (0..d * d).map(|i| factor[i % d * d + i / d]).collect();
        let matrix = multiply(&factor, &transposed, d);
        let root = square_root(&matrix, d);
        for (a, b) in multiply(&root, &root, d).iter().zip(&matrix) {
            assert!((a - b).abs() < 1e-10, "{a} against {b}");
        }
    }

    /// Two diagonal Gaussians: `(m₁ − m₂)² + (s₁ − s₂)²` per axis.
    #[test]
    fn distance_of_diagonal_gaussians() {
        let gaussian = |mean: [f64; 2], std: [f64; 2]| Moments {
            mean: mean.to_vec(),
            covariance: vec![std[0] * std[0], 0.0, 0.0, std[1] * std[1]],
        };
        let (a, b) = (gaussian([0.0, 1.0], [1.0, 2.0]), gaussian([3.0, 1.0], [0.5, 5.0]));
        assert!((a.distance(&b) - (9.0 + 0.25 + 9.0)).abs() < 1e-12);
        assert!(a.distance(&a).abs() < 1e-12);
    }
}
