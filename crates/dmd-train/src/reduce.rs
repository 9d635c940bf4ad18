use std::fmt::Debug;

use crate::{Error, Gradients};

/// Several processes, called ranks, that train one model: each computes the gradients of its own batches, and all
/// take the same optimiser step along the mean.
pub trait Reduce: Debug {
    /// Replaces each gradient by its mean over all ranks. A trainer calls it between the backward pass and the
    /// optimiser's step, in the same order on every rank.
    ///
    /// # Errors
    ///
    /// When a rank cannot be reached.
    fn reduce(&self, gradients: &mut Gradients) -> Result<(), Error>;

    /// The number of this rank, from 0. Ranks draw different noise: use it in the name of the noise's stream.
    fn rank(&self) -> usize;

    /// How many ranks train together.
    fn ranks(&self) -> usize;
}

/// One process that trains by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Reduce for Alone {
    fn reduce(&self, _gradients: &mut Gradients) -> Result<(), Error> {
        Ok(())
    }

    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }
}
