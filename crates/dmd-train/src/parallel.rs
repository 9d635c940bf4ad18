//! Threads of a CPU: micro-batches side by side, and teacher beside fake score.

use burn::tensor::Tensor;
use rayon::prelude::*;

/// Runs `work` on every item, `parallel` of them at a time on the threads of the CPU, and gives the results to `take`
/// in order: micro-batches of one update are independent, and small operations share threads badly. No more than
/// `parallel` results exist at once.
pub(crate) fn side_by_side<T: Send, R: Send>(
    items: Vec<T>,
    parallel: usize,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R),
) {
    let mut items = items.into_iter();
    loop {
        let group: Vec<T> = items.by_ref().take(parallel.max(1)).collect();
        match group.len() {
            0 => return,
            1 => group.into_iter().map(&work).for_each(&mut take),
            _ => group.into_par_iter().map(&work).collect::<Vec<R>>().into_iter().for_each(&mut take),
        }
    }
}

/// Both functions at once, for [`dmd_core::Distiller::with_both`]: on a CPU two networks share the threads better
/// than one takes them all.
pub fn both(
    first: &(dyn Fn() -> Tensor<4> + Sync),
    second: &(dyn Fn() -> Tensor<4> + Sync),
) -> [Tensor<4>; 2] {
    rayon::join(first, second).into()
}
