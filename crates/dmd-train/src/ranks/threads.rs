use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, balanced_sum};
use crate::Error;

/// A rank that is a thread, beside others of the same process.
///
/// When a rank is dropped, the others, which would wait for it for ever, get an error that names it.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

/// Where ranks meet: each posts what it has, and the last one hands out all of it.
#[derive(Debug, Default)]
struct Exchange {
    round: u64,
    posted: Vec<Option<Values>>,
    /// What was posted in the last round.
    all: Arc<Vec<Values>>,
    ended: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Values {
    fn single(&self) -> &[f32] {
        match self {
            Self::Single(values) => values,
            Self::Double(_) => &[],
        }
    }

    fn double(&self) -> &[f64] {
        match self {
            Self::Single(_) => &[],
            Self::Double(values) => values,
        }
    }

    /// What two ranks that call the same method have in common.
    fn form(&self) -> (bool, usize) {
        match self {
            Self::Single(values) => (true, values.len()),
            Self::Double(values) => (false, values.len()),
        }
    }
}

impl Threads {
    /// `size` ranks, one for each thread.
    ///
    /// ```
    /// use dmd_train::{Collective, Threads};
    /// let sums: Vec<f32> = std::thread::scope(|scope| {
    ///     let work = |rank: Threads| {
    ///         let mut values = [rank.rank() as f32 + 1.0];
    ///         rank.sum(&mut values).map(|()| values[0])
    ///     };
    ///     let threads: Vec<_> =
    ///         Threads::group(3).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
    ///     threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    /// });
    /// assert_eq!(sums, [6.0; 3]);
    /// ```
    pub fn group(size: usize) -> Vec<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().posted.resize(size, None);
        (0..size).map(|rank| Self { rank, size, shared: shared.clone() }).collect()
    }

    /// What every rank posts, in their order.
    fn exchange(&self, values: Values) -> Result<Arc<Vec<Values>>, Error> {
        let mut exchange = self.shared.lock();
        let round = exchange.round;
        if let Some(rank) = exchange.ended {
            return Err(ended(rank));
        }
        exchange.posted[self.rank] = Some(values);
        if exchange.posted.iter().all(Option::is_some) {
            exchange.all = Arc::new(exchange.posted.iter_mut().filter_map(Option::take).collect());
            exchange.round += 1;
            self.shared.changed.notify_all();
        }
        while exchange.round == round {
            if let Some(rank) = exchange.ended {
                return Err(ended(rank));
            }
            exchange = self.shared.changed.wait(exchange).unwrap_or_else(PoisonError::into_inner);
        }
        // The next round is not over before this rank has posted in it.
        let all = exchange.all.clone();
        match all.iter().position(|other| other.form() != all[0].form()) {
            None => Ok(all),
            Some(rank) => {
                Err(Error::Rank { rank, reason: "exchanges something else than rank 0".to_owned() })
            }
        }
    }
}

fn ended(rank: usize) -> Error {
    Error::Rank { rank, reason: "has ended".to_owned() }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().ended.get_or_insert(self.rank);
        self.shared.changed.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        let all = self.exchange(Values::Single(values.to_vec()))?;
        values.copy_from_slice(&balanced_sum(all.iter().map(Values::single)));
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32]) -> Result<(), Error> {
        let all = self.exchange(Values::Single(values.to_vec()))?;
        values.copy_from_slice(all[0].single());
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
        let all = self.exchange(Values::Double(values.to_vec()))?;
        Ok(all.iter().flat_map(Values::double).copied().collect())
    }

    fn barrier(&self) -> Result<(), Error> {
        self.exchange(Values::Double(Vec::new())).map(|_| ())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// What each rank of a group returns.
    fn each<T: Send>(size: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let ranks = Threads::group(size).into_iter();
            let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Many rounds of all methods, without a rank that overtakes another.
    #[test]
    fn ranks_exchange_values() {
        for size in [1, 2, 3, 4] {
            each(size, |ranks| {
                for round in 0..200 {
                    let here = (10 * round + ranks.rank()) as f32;
                    let mut sum = [here, 1.0];
                    ranks.sum(&mut sum).unwrap();
                    let expected: usize = (0..size).map(|rank| 10 * round + rank).sum();
                    assert_eq!(sum, [expected as f32, size as f32]);
                    let mut first = [here];
                    ranks.broadcast(&mut first).unwrap();
                    assert_eq!(first, [10.0 * round as f32]);
                    let gathered = ranks.gather(&[f64::from(here)]).unwrap();
                    assert_eq!(
                        gathered,
                        (0..size).map(|rank| (10 * round + rank) as f64).collect::<Vec<_>>()
                    );
                    ranks.barrier().unwrap();
                }
            });
        }
    }

    /// A rank that ends, or that does something else, is named to all others; nobody waits for ever.
    #[test]
    fn a_rank_that_ends_is_named() {
        let found = each(3, |ranks| match ranks.rank() {
            1 => Ok(()),
            _ => ranks.barrier(),
        });
        assert!(found[1].is_ok());
        for error in [&found[0], &found[2]] {
            assert!(matches!(error, Err(Error::Rank { rank: 1, .. })), "{error:?}");
        }
        let found = each(3, |ranks| ranks.sum(&mut vec![0.0; 1 + usize::from(ranks.rank() == 2)]));
        for error in &found {
            assert!(matches!(error, Err(Error::Rank { rank: 2, .. })), "{error:?}");
        }
    }
}
