//! DMD2's adversarial term: the non-saturating logistic losses (DMD2, eq. 4).

use burn::tensor::{Tensor, activation::softplus};

/// The generator's side, `mean softplus(−fake)`: small when the critic believes the samples.
///
/// # Shapes
///
/// `fake_logits`: `[batch, 1]`; the loss is `[1]`. At logit 0 it is `ln 2`.
pub fn generator_loss(fake_logits: Tensor<2>) -> Tensor<1> {
    softplus(-fake_logits, 1.0).mean()
}

/// The critic's side, `mean softplus(fake) + mean softplus(−real)`.
///
/// # Shapes
///
/// Both `[batch, 1]`; the loss is `[1]`. At logits 0 it is `2 ln 2`.
pub fn critic_loss(real_logits: Tensor<2>, fake_logits: Tensor<2>) -> Tensor<1> {
    softplus(fake_logits, 1.0).mean() + softplus(-real_logits, 1.0).mean()
}
