//! Several ranks that train one model together: what they exchange, and in which order they add.

mod threads;

use std::fmt::Debug;

pub use self::threads::Threads;
use crate::Error;

/// What the ranks of one training exchange. A rank is a process, or a thread of one; ranks count from 0. Every rank calls
/// the same methods in the same order, with slices of the same lengths: each call waits for the others.
///
/// Each rank computes its share of an update's micro-batches, and all take the same optimiser step along the sum.
pub trait Collective: Debug {
    /// The number of this rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Replaces values by their sums over all ranks, added in the order of [`balanced_sum`]: the same bits on every rank.
    ///
    /// # Errors
    ///
    /// [`Error::Rank`] when a rank has ended.
    fn sum(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Replaces values by those of rank 0.
    ///
    /// # Errors
    ///
    /// As [`Self::sum`].
    fn broadcast(&self, values: &mut [f32]) -> Result<(), Error>;

    /// A few numbers of every rank, one rank after the other.
    ///
    /// # Errors
    ///
    /// As [`Self::sum`].
    fn gather(&self, values: &[f64]) -> Result<Vec<f64>, Error>;

    /// Waits until every rank has come here.
    ///
    /// # Errors
    ///
    /// As [`Self::sum`].
    fn barrier(&self) -> Result<(), Error>;
}

/// One process that trains by itself: rank 0 of 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _values: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn broadcast(&self, _values: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
        Ok(values.to_vec())
    }

    fn barrier(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A sum of a known number of terms in a fixed order: the sum of the first half plus the sum of the second half, each
/// added in the same way, for so many levels of halves; below them from the left. With two levels 8 terms are
/// `((a + b) + (c + d)) + ((e + f) + (g + h))`. Equal shares of 2, 4 or 8 ranks are subtrees of three levels: however many
/// of these share the terms, the sum has the same bits.
#[derive(Debug)]
pub(crate) struct Balanced<T> {
    count: usize,
    levels: usize,
    pushed: usize,
    /// Sums of subtrees that wait for their neighbours; at most one for each level of halves, and one from the left.
    waiting: Vec<T>,
    add: fn(T, T) -> T,
}

impl<T> Balanced<T> {
    /// A sum of `count` terms, in halves for so many levels.
    pub(crate) fn new(count: usize, levels: usize, add: fn(T, T) -> T) -> Self {
        Self { count, levels, pushed: 0, waiting: Vec::new(), add }
    }

    /// Adds the next term.
    ///
    /// # Panics
    ///
    /// If all terms were added.
    pub(crate) fn push(&mut self, term: T) {
        assert!(self.pushed < self.count, "{} terms were announced", self.count);
        // As many subtrees as end with this term are complete.
        let (mut low, mut high, mut complete, mut level) = (0, self.count, 0, 0);
        while high - low > 1 {
            complete += usize::from(high == self.pushed + 1);
            let middle = if level < self.levels { low + (high - low) / 2 } else { high - 1 };
            if self.pushed < middle {
                high = middle
            } else {
                low = middle
            }
            level += 1;
        }
        let earlier = self.waiting.split_off(self.waiting.len() - complete);
        let sum = earlier.into_iter().rev().fold(term, |sum, earlier| (self.add)(earlier, sum));
        self.waiting.push(sum);
        self.pushed += 1;
    }

    /// The sum; `None` without a term.
    ///
    /// # Panics
    ///
    /// If terms are missing.
    pub(crate) fn finish(mut self) -> Option<T> {
        assert_eq!(self.pushed, self.count, "terms of a sum");
        self.waiting.pop()
    }
}

/// The sum of slices of one length, element by element: the sum of the first half of them plus the sum of the second
/// half, each added in the same way. Every [`Collective`] adds its ranks in this order.
///
/// ```
/// let (a, b, c) = ([1.0_f32], [1e8], [-1e8]);
/// // One of three is the first half: 1 + (1e8 − 1e8). From the left it would be (1 + 1e8) − 1e8 = 0.
/// assert_eq!(dmd_train::balanced_sum([&a[..], &b, &c].into_iter()), [1.0]);
/// ```
///
/// # Panics
///
/// If their lengths differ.
pub fn balanced_sum<'a>(slices: impl ExactSizeIterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut sum = Balanced::new(slices.len(), usize::MAX, |mut sum: Vec<f32>, other: Vec<f32>| {
        assert_eq!(sum.len(), other.len(), "slices of a sum");
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        sum
    });
    slices.for_each(|slice| sum.push(slice.to_vec()));
    sum.finish().unwrap_or_default()
}

/// Checks that all ranks come with the same `bytes`, which the reason of the error describes: `has other settings than
/// rank 0`.
///
/// # Errors
///
/// [`Error::Rank`] on every rank, of the first rank that differs from rank 0.
pub fn agree(ranks: &dyn Collective, bytes: &[u8], otherwise: &str) -> Result<(), Error> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let digests = ranks.gather(&[digest(bytes)])?;
    match digests.iter().position(|digest| *digest != digests[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Rank { rank, reason: otherwise.to_owned() }),
    }
}

/// Whether any rank says so, for a decision that all have to make alike.
///
/// # Errors
///
/// What the collective returns.
pub fn any(ranks: &dyn Collective, here: bool) -> Result<bool, Error> {
    if ranks.size() == 1 {
        return Ok(here);
    }
    Ok(ranks.gather(&[f64::from(u8::from(here))])?.contains(&1.0))
}

/// The own result, unless another rank failed: then its error, or a word about it. All ranks have to come here.
///
/// # Errors
///
/// The own error, or [`Error::Rank`] of the first rank that failed.
pub fn together<T, E: From<Error>>(ranks: &dyn Collective, result: Result<T, E>) -> Result<T, E> {
    if ranks.size() == 1 {
        return result;
    }
    let failed = ranks.gather(&[f64::from(u8::from(result.is_err()))])?;
    match (result, failed.iter().position(|failed| *failed == 1.0)) {
        (Ok(_), Some(rank)) => {
            Err(Error::Rank { rank, reason: "failed; its own message says why".to_owned() }.into())
        }
        (result, _) => result,
    }
}

/// Levels of halves in which one of so many ranks adds its share of an update's gradients: together with the sum over ranks
/// three, and so the bits are those of one rank for up to 8 of them. With more levels more sums would wait in memory.
pub(crate) fn levels(ranks: usize) -> usize {
    3_usize.saturating_sub(ranks.next_power_of_two().trailing_zeros() as usize)
}

/// How many sums wait at most while `count` terms are added in `levels` of halves.
pub(crate) fn waiting(count: usize, levels: usize) -> usize {
    let halves = count.next_power_of_two().trailing_zeros() as usize;
    halves.min(levels) + usize::from(halves > levels)
}

/// 48 bits of a hash: a number that an f64 holds exactly.
fn digest(bytes: &[u8]) -> f64 {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(bytes);
    hash[..6].iter().fold(0.0, |number, byte| number * 256.0 + f64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order as an expression.
    fn expression(levels: usize, terms: impl ExactSizeIterator<Item = String>) -> String {
        let count = terms.len();
        let mut sum = Balanced::new(count, levels, |a, b| format!("({a}{b})"));
        let mut most = 0;
        for term in terms {
            // Before the last term everything that can wait does.
            most = most.max(sum.waiting.len());
            sum.push(term);
        }
        assert!(most <= waiting(count, levels), "{most} wait of {count} in {levels} levels");
        sum.finish().unwrap_or_default()
    }

    #[test]
    fn halves_are_added_to_halves() {
        let of = |count: usize| expression(9, (0..count).map(|i| i.to_string()));
        assert_eq!([of(0), of(1), of(2), of(3)], ["", "0", "(01)", "(0(12))"]);
        assert_eq!(of(4), "((01)(23))");
        assert_eq!(of(6), "((0(12))(3(45)))");
        assert_eq!(of(7), "((0(12))((34)(56)))");
        // Below the levels from the left.
        let of = |count: usize| expression(1, (0..count).map(|i| i.to_string()));
        assert_eq!([of(4), of(8)], ["((01)(23))", "((((01)2)3)(((45)6)7))"]);
    }

    /// Shares of 2, 4 and 8 ranks are subtrees, whatever the share's length.
    #[test]
    fn a_power_of_two_of_ranks_adds_in_the_order_of_one() {
        for ranks in [1, 2, 4, 8] {
            for share in 1..9 {
                let term = |i: usize| format!("{i},");
                let one = expression(levels(1), (0..ranks * share).map(term));
                let of_rank =
                    |rank: usize| expression(levels(ranks), (rank * share..(rank + 1) * share).map(term));
                assert_eq!(expression(9, (0..ranks).map(of_rank)), one, "{ranks} ranks of {share}");
            }
        }
    }

    #[test]
    fn few_sums_wait() {
        assert_eq!([levels(1), levels(2), levels(4), levels(8), levels(16)], [3, 2, 1, 0, 0]);
        assert_eq!([waiting(1, 3), waiting(2, 3), waiting(8, 3), waiting(256, 3)], [0, 1, 3, 4]);
        assert_eq!(waiting(256, 0), 1);
    }
}
