//! Two sets of pictures of the same prompts and noises, compared: differences with standard errors, and verdicts.

use std::fmt;

/// Folds of [`jackknife`].
const FOLDS: usize = 10;

/// Fewest pairs of which an error is estimated.
pub const FEWEST: usize = 20;

/// How a first set stands to a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than two standard errors.
    Better,
    /// The difference is within two standard errors.
    Equal,
    /// Worse by more than two standard errors.
    Worse,
}

impl Verdict {
    /// The verdict on an advantage, positive where the first set is better, and its standard error. `None` where one of
    /// them is not a number.
    pub fn of(advantage: f64, error: f64) -> Option<Self> {
        if !advantage.is_finite() || !error.is_finite() {
            return None;
        }
        Some(match advantage {
            a if a > 2.0 * error => Self::Better,
            a if a < -2.0 * error => Self::Worse,
            _ => Self::Equal,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Equal => "equal within two standard errors",
            Self::Worse => "worse",
        })
    }
}

/// The mean of the first values less that of the second, and its standard error. Values of one place belong together.
/// `None` of fewer than [`FEWEST`].
///
/// # Panics
///
/// If there are not as many of the first as of the second.
pub fn mean_difference(first: &[f64], second: &[f64]) -> Option<(f64, f64)> {
    assert_eq!(first.len(), second.len(), "values that belong together");
    if first.len() < FEWEST {
        return None;
    }
    let count = first.len() as f64;
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let mean = differences.iter().sum::<f64>() / count;
    let spread = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some((mean, (spread / count).sqrt()))
}

/// The standard error of a figure of two sets of rows: the delete-one-fold jackknife (Efron and Tibshirani 1993, chapter 11)
/// over ten folds. Rows of one place belong together, one of each set per prompt and noise, and are left out together.
/// `None` of fewer than [`FEWEST`] rows.
///
/// # Panics
///
/// If the sets differ in length, or as `figure` does.
pub fn jackknife(
    first: &[Vec<f64>],
    second: &[Vec<f64>],
    figure: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> f64,
) -> Option<f64> {
    assert_eq!(first.len(), second.len(), "rows that belong together");
    if first.len() < FEWEST {
        return None;
    }
    let without = |fold: usize, rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let kept = rows.iter().enumerate().filter(|(i, _)| i % FOLDS != fold);
        kept.map(|(_, row)| row.clone()).collect()
    };
    let left: Vec<f64> =
        (0..FOLDS).map(|fold| figure(&without(fold, first), &without(fold, second))).collect();
    let folds = FOLDS as f64;
    let mean = left.iter().sum::<f64>() / folds;
    let spread: f64 = left.iter().map(|value| (value - mean).powi(2)).sum();
    Some(((folds - 1.0) / folds * spread).sqrt())
}

#[cfg(test)]
mod tests {
    use dmd_core::Noise;

    use super::*;

    #[test]
    fn verdicts() {
        assert_eq!(Verdict::of(2.1, 1.0), Some(Verdict::Better));
        assert_eq!([Verdict::of(1.9, 1.0), Verdict::of(-2.0, 1.0)], [Some(Verdict::Equal); 2]);
        assert_eq!(Verdict::of(-2.1, 1.0), Some(Verdict::Worse));
        assert_eq!(Verdict::of(0.0, 0.0), Some(Verdict::Equal), "of equal sets");
        assert_eq!(Verdict::of(f64::NAN, 1.0), None);
    }

    /// Differences 1 and 3, ten of each: a mean of 2, a variance of 20/19, of twenty.
    #[test]
    fn a_mean_with_its_error() {
        let second = [0.5; 20];
        let first: Vec<f64> = (0..20).map(|i| if i % 2 == 0 { 1.5 } else { 3.5 }).collect();
        let (mean, error) = mean_difference(&first, &second).expect("twenty pairs");
        assert!((mean - 2.0).abs() < 1e-12 && (error - (1.0_f64 / 19.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean_difference(&first[1..], &second[1..]), None);
    }

    /// Of a mean over equal folds the jackknife is the deviation of the folds' means over the root of their number.
    #[test]
    fn the_jackknife_of_a_mean() {
        let values = Noise::from_seed(7).normals(300);
        let (first, second) = values.split_at(150);
        let rows = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        let mean = |rows: &[Vec<f64>]| rows.iter().map(|row| row[0]).sum::<f64>() / rows.len() as f64;
        let found = jackknife(&rows(first), &rows(second), |a, b| mean(a) - mean(b)).expect("150 rows");
        let fold = |fold: usize| {
            let own = (0..150).filter(|i| i % 10 == fold).map(|i| first[i] - second[i]);
            own.sum::<f64>() / 15.0
        };
        let folds: Vec<f64> = (0..10).map(fold).collect();
        let middle = folds.iter().sum::<f64>() / 10.0;
        let variance = folds.iter().map(|mean| (mean - middle).powi(2)).sum::<f64>() / 9.0;
        assert!((found - (variance / 10.0).sqrt()).abs() < 1e-12, "{found}, {variance}");
        assert_eq!(jackknife(&rows(&first[..19]), &rows(&second[..19]), |_, _| 0.0), None);
    }
}
