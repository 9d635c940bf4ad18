use dmd_core::Noise;

/// An order without end in which places of a list are drawn: each once, in a random order, then each once in another one.
///
/// Every order is a function of the seed and of how often the list was gone through, so that the number of places that
/// were drawn is all that is needed to go on.
#[derive(Debug, Clone)]
pub struct Epochs {
    seed: u64,
    purpose: &'static str,
    count: usize,
    /// Which time through the list, and its order.
    current: Option<(u64, Vec<usize>)>,
}

impl Epochs {
    /// The orders of `count` places for one purpose.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub fn new(seed: u64, purpose: &'static str, count: usize) -> Self {
        assert!(count > 0, "an empty list has no order");
        Self { seed, purpose, count, current: None }
    }

    /// The place that is drawn after `drawn` others.
    pub fn place(&mut self, drawn: u64) -> usize {
        let (epoch, at) = (drawn / self.count as u64, (drawn % self.count as u64) as usize);
        if let Some((current, order)) = &self.current
            && *current == epoch
        {
            return order[at];
        }
        let mut noise = Noise::stream(self.seed, &format!("{}-{epoch}", self.purpose));
        let mut order: Vec<usize> = (0..self.count).collect();
        // Fisher and Yates.
        for last in (1..self.count).rev() {
            order.swap(last, noise.below(last + 1));
        }
        let place = order[at];
        self.current = Some((epoch, order));
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place once in each round, in another order, whatever was asked before.
    #[test]
    fn each_place_once_in_each_round() {
        let mut epochs = Epochs::new(3, "test", 10);
        let rounds: Vec<Vec<usize>> =
            (0..3).map(|round| (0..10).map(|at| epochs.place(10 * round + at)).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert!(rounds[0] != rounds[1] && rounds[1] != rounds[2]);
        let mut resumed = Epochs::new(3, "test", 10);
        assert_eq!((13..30).map(|at| resumed.place(at)).collect::<Vec<_>>(), rounds.concat()[13..]);
        assert_ne!(Epochs::new(4, "test", 10).place(0), rounds[0][0]);
    }
}
