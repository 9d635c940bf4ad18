use burn::tensor::Tensor;
use dmd_core::Condition;

/// Which network a micro-batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The generator, and the fake score's update on the samples of that turn.
    Generator,
    /// A further update of the fake score. It needs no pairs.
    Fake,
}

/// What a micro-batch is about.
#[derive(Debug, Clone)]
pub struct Batch<C> {
    pub(super) condition: C,
    pub(super) pairs: Option<[Tensor<4>; 2]>,
    pub(super) reals: Option<(Tensor<4>, C)>,
    pub(super) start: Option<Tensor<4>>,
}

impl<C: Condition> Batch<C> {
    /// A batch of conditions, one row per sample (or one row for all).
    pub fn new(condition: C) -> Self {
        Self { condition, pairs: None, reals: None, start: None }
    }

    /// The same batch with pairs for its first rows: noise, and what the teacher's sampler makes of it.
    pub fn with_pairs(self, z: Tensor<4>, x0: Tensor<4>) -> Self {
        Self { pairs: Some([z, x0]), ..self }
    }

    /// The same batch with real samples and their condition, for the critic.
    pub fn with_reals(self, x0: Tensor<4>, condition: C) -> Self {
        Self { reals: Some((x0, condition)), ..self }
    }

    /// The same batch with clean samples from which a generator's later steps start, in place of the generator's own
    /// (DMD2's backward simulation).
    pub fn with_start(self, x0: Tensor<4>) -> Self {
        Self { start: Some(x0), ..self }
    }
}
