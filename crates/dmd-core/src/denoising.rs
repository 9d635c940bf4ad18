//! The denoising objective: what trains a teacher, and the fake score online.

use burn::tensor::Tensor;

use crate::per_sample;

/// `mean weight · (x0_hat − x0)²`, over every element of the batch.
///
/// With [`Prediction::loss_weight`](crate::Prediction::loss_weight) this is the plain squared
/// error of the network's own output (DMD2, section 3: the teacher's own training loss).
///
/// # Shapes
///
/// `x0_hat` and `x0`: `[batch, ..]`; `weight`: `[batch]`; the loss is `[1]`.
pub fn loss<const D: usize>(x0_hat: Tensor<D>, x0: Tensor<D>, weight: Tensor<1>) -> Tensor<1> {
    ((x0_hat - x0).square() * per_sample(weight)).mean()
}
