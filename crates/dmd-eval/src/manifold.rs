//! Precision and recall of samples against real ones, in any feature space (Kynkäänniemi et al. 2019).

use rayon::prelude::*;

/// Shares of samples that lie on the other set's manifold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// Share of generated samples near real ones: fidelity.
    pub precision: f64,
    /// Share of real samples near generated ones: variety.
    pub recall: f64,
}

/// The manifold of a set of rows: a sample lies on it when it is at most as far from one of the set's rows as that one's
/// `k`-th neighbour within the set (the paper: `k = 3`).
///
/// Rows are features of one length. The work grows with the product of the numbers of rows.
#[derive(Debug, Clone)]
pub struct Manifold<'a> {
    rows: &'a [Vec<f64>],
    /// Squared distances of each row to its `k`-th neighbour.
    radii: Vec<f64>,
}

impl<'a> Manifold<'a> {
    /// The manifold of a set.
    ///
    /// # Panics
    ///
    /// If the set has no more than `k` rows, or `k` is 0.
    pub fn new(rows: &'a [Vec<f64>], k: usize) -> Self {
        assert!(k > 0 && rows.len() > k, "{} rows have no {k}-th neighbours", rows.len());
        let radius = |row: &Vec<f64>| {
            let mut apart: Vec<f64> = rows.iter().map(|other| squared_distance(row, other)).collect();
            // The row itself is the nearest, at 0.
            *apart.select_nth_unstable_by(k, f64::total_cmp).1
        };
        Self { rows, radii: rows.par_iter().map(radius).collect() }
    }

    /// Which samples lie on it.
    pub fn on(&self, samples: &[Vec<f64>]) -> Vec<bool> {
        let on = |sample: &Vec<f64>| {
            self.rows.iter().zip(&self.radii).any(|(row, radius)| squared_distance(row, sample) <= *radius)
        };
        samples.par_iter().map(on).collect()
    }

    /// The share of samples that lie on it.
    pub fn share(&self, samples: &[Vec<f64>]) -> f64 {
        self.on(samples).into_iter().filter(|on| *on).count() as f64 / samples.len() as f64
    }
}

/// Precision and recall of generated rows.
///
/// # Panics
///
/// As [`Manifold::new`], of either set.
pub fn coverage(real: &[Vec<f64>], generated: &[Vec<f64>], k: usize) -> Coverage {
    Coverage { precision: Manifold::new(real, k).share(generated), recall: recall(real, generated, k) }
}

/// The share of real rows on the manifold of generated ones.
///
/// # Panics
///
/// As [`Manifold::new`] of the generated rows.
pub fn recall(real: &[Vec<f64>], generated: &[Vec<f64>], k: usize) -> f64 {
    Manifold::new(generated, k).share(real)
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line, a neighbour one apart: radii of 1 at k = 1.
    #[test]
    fn shares_of_points_on_a_line() {
        let line = |points: &[f64]| points.iter().map(|x| vec![*x]).collect::<Vec<_>>();
        let real = line(&[0.0, 1.0, 2.0, 3.0]);
        let found = coverage(&real, &line(&[0.5, 1.5, 10.0, 10.2]), 1);
        // Two of four lie between real points. Of the generated ones' balls (radii 1, 1, 0.2, 0.2), those around
        // 0.5 and 1.5 hold 0, 1 and 2.
        assert_eq!(found, Coverage { precision: 0.5, recall: 0.75 });
        assert_eq!(coverage(&real, &real, 1), Coverage { precision: 1.0, recall: 1.0 });
    }
}
