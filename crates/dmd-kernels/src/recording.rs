//! Recording: which operations some work runs, with their shapes.

use std::cell::RefCell;
use std::mem;

use crate::{Operation, Operations};

thread_local! {
    /// What runs on this thread is added here, where somebody records.
    static RECORD: RefCell<Option<Operations>> = const { RefCell::new(None) };
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

/// Adds an operation to this thread's record; where nobody records it is not even made.
pub(crate) fn note(operation: impl FnOnce() -> Operation) {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            *record.entry(operation()).or_default() += 1;
        }
    });
}

/// Multiplications and additions of the products of matrices among these operations.
pub fn flops(operations: &Operations) -> f64 {
    operations.iter().map(|(operation, count)| operation.flops() * *count as f64).sum()
}
