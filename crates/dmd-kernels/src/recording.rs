//! Recording: which operations some work runs, with their shapes, and how long each takes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use crate::{Operation, Operations};

thread_local! {
    /// What runs on this thread is added here, where somebody records.
    static RECORD: RefCell<Option<Operations>> = const { RefCell::new(None) };
    /// How long it takes, where somebody times.
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Clock {
    spent: BTreeMap<Operation, Spent>,
    /// What operations inside the one that runs took.
    inner: Duration,
}

/// The calls of an operation, and the time that they took together, without other operations inside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// How often it ran.
    pub calls: usize,
    /// The time of all calls.
    pub time: Duration,
}

/// Runs `work` and lists the operations of this crate that it runs on this thread, each with how often it occurs. What
/// other threads and backward passes run is not in the list.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use dmd_kernels::{Operation, geglu, recorded};
///
/// let both = Tensor::<3>::zeros([1, 5, 8], &Device::flex());
/// let (out, operations) = recorded(|| geglu(both));
/// assert_eq!(out.dims(), [1, 5, 4]);
/// assert_eq!(operations[&Operation::Geglu { rows: 5, width: 4 }], 1);
/// ```
pub fn recorded<T>(work: impl FnOnce() -> T) -> (T, Operations) {
    let outer = Outer(RECORD.replace(Some(Operations::new())));
    let result = work();
    let found = RECORD.take().unwrap_or_default();
    let mut outer = outer;
    if let Some(outer) = &mut outer.0 {
        for (operation, count) in &found {
            *outer.entry(*operation).or_default() += count;
        }
    }
    (result, found)
}

/// The record around this one, which goes on afterwards, also after a panic.
struct Outer(Option<Operations>);

impl Drop for Outer {
    fn drop(&mut self) {
        RECORD.set(mem::take(&mut self.0));
    }
}

/// Runs `work` and times the operations of this crate that it runs on this thread. The times are those of the calls: right for a
/// backend that computes at once, as `flex` and `ndarray` do, and not for one that puts its work into a queue. What lies
/// between the operations is in none of them.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use dmd_kernels::{Operation, geglu, timed};
///
/// let both = Tensor::<3>::zeros([1, 5, 8], &Device::flex());
/// let (_, spent) = timed(|| geglu(geglu(both)));
/// assert_eq!(spent[&Operation::Geglu { rows: 5, width: 4 }].calls, 1);
/// assert_eq!(spent.len(), 2);
/// ```
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, BTreeMap<Operation, Spent>) {
    struct Restored(Option<Clock>);
    impl Drop for Restored {
        fn drop(&mut self) {
            CLOCK.set(self.0.take());
        }
    }
    let outer = Restored(CLOCK.replace(Some(Clock::default())));
    let result = work();
    let found = CLOCK.take().unwrap_or_default();
    drop(outer);
    (result, found.spent)
}

/// An operation that runs until this is dropped.
#[must_use = "its end is the operation's"]
#[derive(Debug, Default)]
pub(crate) struct Span(Option<Running>);

#[derive(Debug)]
struct Running {
    operation: Operation,
    start: Instant,
    /// What operations beside this one, inside the same outer one, have taken.
    before: Duration,
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Running { operation, start, before }) = self.0.take() else { return };
        let whole = start.elapsed();
        CLOCK.with_borrow_mut(|clock| {
            let Some(clock) = clock else { return };
            let spent = clock.spent.entry(operation).or_default();
            spent.calls += 1;
            spent.time += whole.saturating_sub(clock.inner);
            clock.inner = before + whole;
        });
    }
}

/// Adds an operation to this thread's record, and begins its time; where nobody records it is not even made.
pub(crate) fn note(operation: impl Fn() -> Operation) -> Span {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            *record.entry(operation()).or_default() += 1;
        }
    });
    Span(CLOCK.with_borrow_mut(|clock| {
        let before = mem::take(&mut clock.as_mut()?.inner);
        Some(Running { operation: operation(), start: Instant::now(), before })
    }))
}

/// Multiplications and additions of the products of matrices among these operations.
pub fn flops(operations: &Operations) -> f64 {
    operations.iter().map(|(operation, count)| operation.flops() * *count as f64).sum()
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    /// An operation inside another is taken off the outer one's time.
    #[test]
    fn times_of_operations_within_operations() {
        let (outer, inner) = (Operation::Geglu { rows: 1, width: 1 }, Operation::Geglu { rows: 2, width: 2 });
        let pause = Duration::from_millis(30);
        let ((), spent) = timed(|| {
            let _outer = note(|| outer);
            for _ in 0..2 {
                let _inner = note(|| inner);
                sleep(pause);
            }
            sleep(pause);
        });
        assert_eq!((spent[&outer].calls, spent[&inner].calls), (1, 2));
        assert!(spent[&inner].time >= 2 * pause && spent[&outer].time >= pause);
        assert!(spent[&outer].time < 2 * pause, "{:?} with the inner ones'", spent[&outer].time);
        drop(note(|| outer));
        assert!(timed(|| ()).1.is_empty(), "nobody timed it");
    }
}
