//! A figure over the steps of a stage.

/// Points drawn of a curve, at most: more than its plot has pixels.
const DRAWN: usize = 800;
/// A smoothed curve forgets a value over this share of all values.
const FORGOTTEN: usize = 50;

/// Steps and values, finite ones, each step once and in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Curve(pub(super) Vec<(f64, f64)>);

impl Curve {
    /// Adds a value; [`Self::settle`] puts it into its place.
    pub(super) fn push(&mut self, step: u64, value: f64) {
        if value.is_finite() {
            self.0.push((step as f64, value));
        }
    }

    /// Puts the steps in order; of a step that was logged twice the later value counts.
    pub(super) fn settle(&mut self) {
        self.0.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        self.0.reverse();
        self.0.dedup_by_key(|(step, _)| *step);
        self.0.reverse();
    }

    pub(super) fn last(&self) -> Option<f64> {
        self.0.last().map(|(_, value)| *value)
    }

    /// The least and the largest value; `None` of an empty curve.
    pub(super) fn range(&self) -> Option<(f64, f64)> {
        let values = self.0.iter().map(|(_, value)| *value);
        values.map(|value| (value, value)).reduce(|(low, high), (value, _)| (low.min(value), high.max(value)))
    }

    /// The exponential mean of the values so far, over a fiftieth of them; `None` of a curve that is too short to need
    /// one. Its first values are means of few, not pulled towards 0.
    pub(super) fn smoothed(&self) -> Option<Self> {
        let span = self.0.len() / FORGOTTEN;
        if span < 2 {
            return None;
        }
        let keep = 1.0 - 1.0 / span as f64;
        let (mut sum, mut weight) = (0.0, 0.0);
        let mean = |(step, value): &(f64, f64)| {
            (sum, weight) = (sum * keep + value, weight * keep + 1.0);
            (*step, sum / weight)
        };
        Some(Self(self.0.iter().map(mean).collect()))
    }

    /// The same curve to the eye, of at most [`DRAWN`] points: of each stretch the least and the largest value, and the
    /// end.
    pub(super) fn thinned(&self) -> Self {
        if self.0.len() <= DRAWN {
            return self.clone();
        }
        let stretch = self.0.len().div_ceil(DRAWN / 2 - 1);
        let mut kept = Vec::with_capacity(DRAWN);
        for points in self.0.chunks(stretch) {
            let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let ends = points.iter().min_by(by_value).zip(points.iter().max_by(by_value));
            let Some((low, high)) = ends else { continue };
            let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
            kept.push(*first);
            kept.push(*second);
        }
        kept.extend(self.0.last().copied());
        kept.dedup();
        Self(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: impl IntoIterator<Item = (u64, f64)>) -> Curve {
        let mut curve = Curve::default();
        points.into_iter().for_each(|(step, value)| curve.push(step, value));
        curve.settle();
        curve
    }

    /// Of a step that a resumed run made again the later value counts, wherever the lines stand; what is no number is
    /// left out.
    #[test]
    fn later_values_count() {
        let found = curve([(1, 0.1), (2, 0.2), (3, 0.3), (2, 2.0), (3, f64::NAN), (4, 4.0)]);
        assert_eq!(found.0, [(1.0, 0.1), (2.0, 2.0), (3.0, 0.3), (4.0, 4.0)]);
        assert_eq!((found.range(), found.last()), (Some((0.1, 4.0)), Some(4.0)));
        assert_eq!(curve([(1, f64::INFINITY)]).range(), None);
    }

    /// A million points become few, and neither a spike nor an end is lost.
    #[test]
    fn thin_curves_keep_spikes() {
        let spike = |step: u64| if step == 654_321 { 1e3 } else { (step % 7) as f64 };
        let thin = curve((1..=1_000_000).map(|step| (step, spike(step)))).thinned();
        assert!((DRAWN / 2..=DRAWN).contains(&thin.0.len()), "{}", thin.0.len());
        assert!(thin.0.contains(&(654_321.0, 1e3)) && thin.0.ends_with(&[(1e6, spike(1_000_000))]));
        assert!(thin.0.is_sorted_by(|a, b| a.0 < b.0));
    }

    /// Of 100 values the span is 2: each value weighs half of the next one, from the first on.
    #[test]
    fn smooth_curves_are_means() {
        let steps = curve((0..100).map(|step| (step, step as f64)));
        let smooth = steps.smoothed().expect("a hundred values");
        for (found, expected) in [(0, 0.0), (1, 1.0 / 1.5), (2, (2.0 + 0.5) / 1.75)] {
            assert!((smooth.0[found].1 - expected).abs() < 1e-12, "{:?}", smooth.0[found]);
        }
        // In the long run the mean lags behind a slope by span − 1.
        assert!((smooth.0[99].1 - 98.0).abs() < 1e-9);
        assert_eq!(curve((0..99).map(|step| (step, 1.0))).smoothed(), None);
    }
}
