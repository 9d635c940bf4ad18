//! Fréchet distance between two sets of pictures' features, in f64.

use std::sync::OnceLock;

use faer::{Mat, Scale, Side};

use crate::paired::jackknife;

/// Mean and covariance (biased by none: divided by `n − 1`) of rows of features.
#[derive(Debug, Clone)]
pub struct Moments {
    mean: Vec<f64>,
    covariance: Mat<f64>,
    /// The covariance's square root, made by the first distance: real pictures are compared with many sets.
    root: OnceLock<Mat<f64>>,
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
        let centred = Mat::from_fn(rows.len(), d, |row, i| rows[row][i] - mean[i]);
        let covariance = centred.transpose() * &centred * Scale(1.0 / (n - 1.0));
        Self { mean, covariance, root: OnceLock::new() }
    }

    /// `|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½)` (Heusel et al. 2017).
    ///
    /// # Panics
    ///
    /// If the two differ in dimension, or a feature is not finite.
    pub fn distance(&self, other: &Self) -> f64 {
        let d = self.mean.len();
        assert_eq!(d, other.mean.len(), "two sets of features of one space");
        let shift: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        let root = self.root.get_or_init(|| square_root(&self.covariance));
        let middle = root * &other.covariance * root;
        let values = middle.self_adjoint_eigenvalues(Side::Lower).expect("finite features");
        let cross: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
        let trace = |m: &Mat<f64>| (0..d).map(|i| m[(i, i)]).sum::<f64>();
        shift + trace(&self.covariance) + trace(&other.covariance) - 2.0 * cross
    }
}

/// The sums that [`Moments`] are made of, gathered a few rows at a time: the rows themselves need not be kept.
#[derive(Debug, Clone, Default)]
pub struct Accumulated {
    count: usize,
    /// The first rows' mean, which everything is counted from, so that no digits are lost.
    origin: Vec<f64>,
    sum: Vec<f64>,
    /// Sum of the products of every two features; empty before the first rows.
    products: Option<Mat<f64>>,
}

impl Accumulated {
    /// Adds rows of features, all of one length.
    ///
    /// # Panics
    ///
    /// If a row is not as long as those before it.
    pub fn add(&mut self, rows: &[Vec<f64>]) {
        let Some(first) = rows.first() else { return };
        let d = first.len();
        if self.count == 0 {
            self.origin =
                (0..d).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64).collect();
            self.sum = vec![0.0; d];
        }
        assert!(rows.iter().all(|row| row.len() == self.sum.len()), "features of one space");
        let centred = Mat::from_fn(rows.len(), d, |row, i| rows[row][i] - self.origin[i]);
        for (i, sum) in self.sum.iter_mut().enumerate() {
            *sum += (0..rows.len()).map(|row| centred[(row, i)]).sum::<f64>();
        }
        let products = centred.transpose() * &centred;
        self.products = Some(match self.products.take() {
            Some(sum) => sum + products,
            None => products,
        });
        self.count += rows.len();
    }

    /// The moments of all rows.
    ///
    /// # Panics
    ///
    /// If there are fewer than two rows.
    pub fn moments(&self) -> Moments {
        assert!(self.count > 1, "a covariance needs two rows");
        let (n, d) = (self.count as f64, self.sum.len());
        let products = self.products.as_ref().map_or(Mat::zeros(d, d), Mat::clone);
        let covariance =
            Mat::from_fn(d, d, |i, j| (products[(i, j)] - self.sum[i] * self.sum[j] / n) / (n - 1.0));
        let mean = self.origin.iter().zip(&self.sum).map(|(origin, sum)| origin + sum / n).collect();
        Moments { mean, covariance, root: OnceLock::new() }
    }
}

/// The standard error of the ratio of two sets' distances to the same real pictures, the first's divided by the second's, by
/// [`jackknife`]. `None` where there are too few rows.
///
/// # Panics
///
/// If the sets differ in length, or as [`Moments::distance`].
pub fn ratio_error(real: &Moments, first: &[Vec<f64>], second: &[Vec<f64>]) -> Option<f64> {
    let distance = |rows: &[Vec<f64>]| real.distance(&Moments::of(rows));
    jackknife(first, second, |first, second| distance(first) / distance(second))
}

/// The symmetric square root of a positive semi-definite matrix.
fn square_root(matrix: &Mat<f64>) -> Mat<f64> {
    let eigen = matrix.self_adjoint_eigen(Side::Lower).expect("finite features");
    let vectors = eigen.U();
    let d = matrix.nrows();
    let scaled = Mat::from_fn(d, d, |row, k| vectors[(row, k)] * eigen.S()[k].max(0.0).sqrt());
    &scaled * vectors.transpose()
}

#[cfg(test)]
mod tests {
    use dmd_core::Noise;

    use super::*;

    #[test]
    fn root_squared_is_the_matrix() {
        let d = 12;
        let values = Noise::from_seed(3).normals(d * d);
        let factor = Mat::from_fn(d, d, |row, column| values[row * d + column]);
        let matrix = factor.transpose() * &factor;
        let root = square_root(&matrix);
        let squared = &root * &root;
        for row in 0..d {
            for column in 0..d {
                assert!((squared[(row, column)] - matrix[(row, column)]).abs() < 1e-10);
            }
        }
    }

    /// Two sets of 600 rows from N(0, 1.5²) and N(0, 2²) in four dimensions against 4000 of N(0, 1): the ratio is that of
    /// 0.5² to 1² per axis. An axis's distance is `(s − 1)²`, and the deviation `s` of `n` rows has the variance
    /// `σ² / 2n`; so to first order the distance over `d` axes has the relative variance `2 σ² / (n d (σ − 1)²)`, and
    /// the ratio of two independent ones the sum of both.
    #[test]
    fn ratio_knows_its_error() {
        const SETS: u64 = 40;
        let rows = |seed: u64, count: usize, std: f64| -> Vec<Vec<f64>> {
            let values = Noise::from_seed(seed).normals(4 * count);
            values.chunks(4).map(|row| row.iter().map(|v| v * std).collect()).collect()
        };
        let real = Moments::of(&rows(1, 4000, 1.0));
        let distance = |rows: &[Vec<f64>]| real.distance(&Moments::of(rows));
        let found: Vec<(f64, f64)> = (0..SETS)
            .map(|i| (rows(10 + 2 * i, 600, 1.5), rows(11 + 2 * i, 600, 2.0)))
            .map(|(a, b)| (distance(&a) / distance(&b), ratio_error(&real, &a, &b).expect("enough rows")))
            .collect();
        let count = SETS as f64;
        let mean = found.iter().map(|(value, _)| value).sum::<f64>() / count;
        let varies = found.iter().map(|(value, _)| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let estimate = found.iter().map(|(_, error)| error.powi(2)).sum::<f64>() / count;
        let relative = |std: f64| 2.0 * std.powi(2) / (600.0 * 4.0 * (std - 1.0).powi(2));
        let variance = 0.25_f64.powi(2) * (relative(1.5) + relative(2.0));
        // The finite sets shift the ratio by about 1 in 100; its mean over the sets has a standard error of 0.004.
        assert!((mean - 0.25).abs() < 0.02, "{mean}");
        // Chi-squares: of 39 degrees of freedom among the sets, of 9 in each estimate, of which 40 are averaged. Three
        // of their relative standard deviations, and 0.05 for what is of second order.
        let bound = |freedom: f64| 3.0 * (2.0 / freedom).sqrt() + 0.05;
        let (among, estimated) = (varies / variance, estimate / variance);
        assert!((among - 1.0).abs() < bound(count - 1.0), "{varies} among the sets, {variance} in theory");
        assert!((estimated - 1.0).abs() < bound(9.0 * count), "{estimate} estimated, {variance} in theory");
        assert_eq!(ratio_error(&real, &rows(1, 19, 1.5), &rows(2, 19, 2.0)), None);
        let same = rows(3, 100, 2.0);
        assert_eq!(ratio_error(&real, &same, &same), Some(0.0));
    }

    /// Moments that were gathered in pieces are those of all rows at once, also far from 0.
    #[test]
    fn pieces_add_up() {
        let values = Noise::from_seed(5).normals(3 * 500);
        let rows: Vec<Vec<f64>> = values.chunks(3).map(|row| row.iter().map(|v| v + 1e3).collect()).collect();
        let mut pieces = Accumulated::default();
        rows.chunks(7).for_each(|chunk| pieces.add(chunk));
        let (whole, pieces) = (Moments::of(&rows), pieces.moments());
        for i in 0..3 {
            // 500 sums of numbers of about 1, in f64.
            assert!((whole.mean[i] - pieces.mean[i]).abs() < 1e-10);
            for j in 0..3 {
                assert!((whole.covariance[(i, j)] - pieces.covariance[(i, j)]).abs() < 1e-10);
            }
        }
    }

    /// Two diagonal Gaussians: `(m₁ − m₂)² + (s₁ − s₂)²` per axis.
    #[test]
    fn distance_of_diagonal_gaussians() {
        let gaussian = |mean: [f64; 2], std: [f64; 2]| Moments {
            mean: mean.to_vec(),
            covariance: Mat::from_fn(2, 2, |i, j| if i == j { std[i] * std[i] } else { 0.0 }),
            root: OnceLock::new(),
        };
        let (a, b) = (gaussian([0.0, 1.0], [1.0, 2.0]), gaussian([3.0, 1.0], [0.5, 5.0]));
        assert!((a.distance(&b) - (9.0 + 0.25 + 9.0)).abs() < 1e-12);
        assert!(a.distance(&a).abs() < 1e-12);
    }
}
