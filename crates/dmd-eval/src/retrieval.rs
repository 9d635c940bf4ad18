//! Whether pictures are recognised: the nearest known pictures have their names.

use rayon::prelude::*;

/// For each row, at which place of the known rows, ordered by distance, the first one of its own name is; 0 is the nearest.
/// `None` where no known row has the name, or the row is not of numbers.
///
/// # Panics
///
/// If there are not as many names as rows.
pub fn places(
    known: &[Vec<f64>],
    known_names: &[&str],
    rows: &[Vec<f64>],
    names: &[&str],
) -> Vec<Option<usize>> {
    assert_eq!(known.len(), known_names.len(), "a name for every known row");
    assert_eq!(rows.len(), names.len(), "a name for every row");
    let place = |(row, name): (&Vec<f64>, &&str)| {
        let apart: Vec<f64> =
            known.iter().map(|other| row.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum()).collect();
        let own = apart.iter().zip(known_names).filter(|(_, known)| *known == name);
        let nearest =
            own.map(|(apart, _)| *apart).min_by(f64::total_cmp).filter(|apart| apart.is_finite())?;
        Some(apart.iter().filter(|apart| **apart < nearest).count())
    };
    rows.par_iter().zip(names).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_a_line() {
        let known: Vec<Vec<f64>> = [0.0, 1.0, 2.0, 5.0].map(|x| vec![x]).to_vec();
        let names = ["cat", "dog", "cat", "bird"];
        let rows: Vec<Vec<f64>> = [0.9, 0.9, 0.9, 4.0, 0.0].map(|x| vec![x]).to_vec();
        let found = places(&known, &names, &rows, &["dog", "cat", "bird", "cat", "fish"]);
        assert_eq!(places(&known, &names, &[vec![f64::NAN]], &["dog"]), [None]);
        // From 0.9: dog, cat at 0, cat at 2, bird. From 4: bird, then the cat at 2.
        assert_eq!(found, [Some(0), Some(1), Some(3), Some(1), None]);
    }
}
