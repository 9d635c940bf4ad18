use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::regression;

/// A distance of two batches of samples, averaged to one number: the measure of the regression term.
pub trait Distance: Debug + Sync {
    /// The mean distance; gradients pass through `x`.
    ///
    /// # Shapes
    ///
    /// `x`, `target`: `[batch, channels, height, width]`; the result is `[1]`.
    fn of(&self, x: Tensor<4>, target: Tensor<4>) -> Tensor<1>;
}

/// The mean squared error of the samples themselves (DMD's ablation: 2.78 FID on CIFAR-10 where LPIPS gives 2.66).
#[derive(Debug, Clone, Copy)]
pub struct SquaredError;

impl Distance for SquaredError {
    fn of(&self, x: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        regression::loss(x, target)
    }
}

/// The mean of `√(e² + c²) − c` over all differences e: see [`regression::pseudo_huber`].
#[derive(Debug, Clone, Copy)]
pub struct PseudoHuber {
    /// Differences well above it count by their size, below by their square.
    pub c: f64,
}

impl Distance for PseudoHuber {
    fn of(&self, x: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        regression::pseudo_huber(x, target, self.c)
    }
}
