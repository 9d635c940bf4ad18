//! Kernel distance between two sets of pictures' features (KID, Bińkowski et al. 2018), in f64.

use faer::Mat;

/// Features of real pictures, to which distances are taken.
#[derive(Debug, Clone)]
pub struct Kernel {
    real: Mat<f64>,
    /// Mean of the kernel over pairs of different real rows.
    within: f64,
}

impl Kernel {
    /// Of at least two rows of real pictures' features.
    ///
    /// # Panics
    ///
    /// If there are fewer than two rows, or of different lengths.
    pub fn new(rows: &[Vec<f64>]) -> Self {
        let real = matrix(rows);
        let within = within(&real);
        Self { real, within }
    }

    /// The unbiased squared maximum mean discrepancy under the kernel `(x · y / d + 1)³`: 0 in expectation for rows of one
    /// distribution, whatever their number; therefore it may be negative.
    ///
    /// # Panics
    ///
    /// If there are fewer than two rows, or of another length than the real ones.
    pub fn distance(&self, rows: &[Vec<f64>]) -> f64 {
        let rows = matrix(rows);
        assert_eq!(rows.ncols(), self.real.ncols(), "features of one space");
        let across = sum(&rows, &self.real) / (rows.nrows() * self.real.nrows()) as f64;
        self.within + within(&rows) - 2.0 * across
    }
}

fn matrix(rows: &[Vec<f64>]) -> Mat<f64> {
    assert!(rows.len() > 1, "pairs need two rows");
    let d = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == d), "features of one space");
    Mat::from_fn(rows.len(), d, |row, column| rows[row][column])
}

/// The kernel of a product of two rows of `d` features.
fn kernel(product: f64, d: usize) -> f64 {
    (product / d as f64 + 1.0).powi(3)
}

/// The kernel summed over all pairs of two sets' rows.
fn sum(first: &Mat<f64>, second: &Mat<f64>) -> f64 {
    /// Rows whose products are in memory at a time.
    const ROWS: usize = 512;
    let d = first.ncols();
    let mut total = 0.0;
    for start in (0..first.nrows()).step_by(ROWS) {
        let part = first.subrows(start, ROWS.min(first.nrows() - start));
        let products = part * second.transpose();
        for column in 0..products.ncols() {
            total += (0..products.nrows()).map(|row| kernel(products[(row, column)], d)).sum::<f64>();
        }
    }
    total
}

/// The kernel's mean over pairs of different rows of a set.
fn within(rows: &Mat<f64>) -> f64 {
    let (n, d) = (rows.nrows(), rows.ncols());
    let own: f64 = (0..n).map(|row| kernel((0..d).map(|i| rows[(row, i)].powi(2)).sum(), d)).sum();
    (sum(rows, rows) - own) / (n * (n - 1)) as f64
}

#[cfg(test)]
mod tests {
    use dmd_core::Noise;

    use super::*;

    fn rows(values: &[f64]) -> Vec<Vec<f64>> {
        values.iter().map(|value| vec![*value]).collect()
    }

    /// By hand: real 0 and 1, generated 1 and 2, k(x, y) = (xy + 1)³. Within real: k(0, 1) = 1. Within generated:
    /// k(1, 2) = 27. Across: k(0, 1), k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27: a mean of 37 / 4.
    #[test]
    fn four_rows_by_hand() {
        let found = Kernel::new(&rows(&[0.0, 1.0])).distance(&rows(&[1.0, 2.0]));
        assert!((found - (1.0 + 27.0 - 2.0 * 37.0 / 4.0)).abs() < 1e-12, "{found}");
    }

    /// Between N(0, 1) and N(m, 1) the distance is the sum over the kernel's powers of the squared differences of moments,
    /// 3·(E x)² + 3·(E x²)² + (E x³)²: of m = 0.5 the means are 0 and 0.5, the second moments 1 and 1.25, the third ones 0 and
    /// 3·0.5 + 0.125. Few rows and many have the same expectation.
    #[test]
    fn the_expectation_does_not_depend_on_the_number() {
        let m: f64 = 0.5;
        let expected = 3.0 * m.powi(2) + 3.0 * m.powi(4) + (3.0 * m + m.powi(3)).powi(2);
        let mut noise = Noise::from_seed(9);
        for (count, sets) in [(10, 4000), (600, 60)] {
            let found: Vec<f64> = (0..sets)
                .map(|_| {
                    let real = Kernel::new(&rows(&noise.normals(count)));
                    let shifted: Vec<f64> = noise.normals(count).into_iter().map(|z| z + m).collect();
                    real.distance(&rows(&shifted))
                })
                .collect();
            let n = sets as f64;
            let mean = found.iter().sum::<f64>() / n;
            let error = (found.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
            assert!(
                (mean - expected).abs() < 4.0 * error,
                "{count} rows: {mean} ± {error}, expected {expected}"
            );
        }
    }

    /// More rows than are multiplied at a time.
    #[test]
    fn parts_add_up() {
        let values = Noise::from_seed(3).normals(1300);
        let all = rows(&values);
        let direct: f64 = values.iter().flat_map(|x| values.iter().map(move |y| (x * y + 1.0).powi(3))).sum();
        let found = sum(&matrix(&all), &matrix(&all));
        assert!((found - direct).abs() < 1e-9 * direct.abs(), "{found}, {direct}");
    }
}
