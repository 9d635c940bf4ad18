use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::level::{NoiseLevel, per_sample};

/// A model of `E[x0 | x_t]`. Teacher, fake score, generator and analytic mixture are all this.
pub trait Denoiser {
    /// What a sample is conditioned on.
    type Condition: Condition;

    /// The expected clean sample.
    ///
    /// # Shapes
    ///
    /// `x_t`: `[batch, channels, height, width]` in f32; the result has the same shape.
    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4>;

    /// The prediction with the condition alone, of a denoiser that is guided; [`Self::denoise`] of any other.
    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel, condition: &Self::Condition) -> Tensor<4> {
        self.denoise(x_t, level, condition)
    }

    /// The predictions with the condition and without it, shaped as that of [`Self::denoise`], of a denoiser that is guided;
    /// `None` of any other.
    fn branches(
        &self,
        _x_t: Tensor<4>,
        _level: &NoiseLevel,
        _condition: &Self::Condition,
    ) -> Option<[Tensor<4>; 2]> {
        None
    }
}

/// The online side of distillation: a trainable denoiser, possibly with a critic's head.
pub trait FakeScore: Denoiser + Module + Sync {
    /// Weight of the squared `x0` error, `[batch]` (see [`Prediction::loss_weight`](crate::Prediction::loss_weight)).
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1>;

    /// Realism logits `[batch, 1]`; `None` for a fake score without a critic's head.
    fn logits(
        &self,
        _x_t: Tensor<4>,
        _level: &NoiseLevel,
        _condition: &Self::Condition,
    ) -> Option<Tensor<2>> {
        None
    }
}

/// What a sample is conditioned on: text features `Tensor<3>`, a class `Tensor<2>`, nothing `()`.
pub trait Condition: Clone + std::fmt::Debug + Send + Sync {
    /// One condition repeated for `batch` samples; a condition that already has `batch` rows is
    /// returned as it is.
    fn expand(&self, batch: usize) -> Self;

    /// The rows of `self` followed by those of `other`.
    fn cat(&self, other: &Self) -> Self;

    /// The same condition on the plain side, cut from any autodiff graph.
    fn without_autodiff(&self) -> Self;
}

impl Condition for () {
    fn expand(&self, _batch: usize) -> Self {}

    fn cat(&self, _other: &Self) -> Self {}

    fn without_autodiff(&self) -> Self {}
}

/// Classes of a batch, `[batch, classes]`: a one in the place of the class, zeros for none (the unconditional
/// branch of guidance); `None` for a network without classes.
pub type Classes = Option<Tensor<2>>;

/// One row per class index, a one in its place, `[indices, classes]`.
///
/// # Panics
///
/// If an index is not below `classes`.
pub fn one_hot(indices: &[usize], classes: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0_f32; indices.len() * classes];
    for (row, index) in indices.iter().enumerate() {
        assert!(*index < classes, "class {index} of {classes}");
        values[row * classes + index] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [indices.len(), classes]), device)
}

/// A condition that a network may do without: class labels of a network without classes are `None`.
impl<C: Condition> Condition for Option<C> {
    fn expand(&self, batch: usize) -> Self {
        self.as_ref().map(|condition| condition.expand(batch))
    }

    /// # Panics
    ///
    /// If one side has a condition and the other has none.
    fn cat(&self, other: &Self) -> Self {
        match (self, other) {
            (Some(first), Some(second)) => Some(first.cat(second)),
            (None, None) => None,
            _ => panic!("conditions of one batch are all there or all absent"),
        }
    }

    fn without_autodiff(&self) -> Self {
        self.as_ref().map(C::without_autodiff)
    }
}

impl<const D: usize> Condition for Tensor<D> {
    fn expand(&self, batch: usize) -> Self {
        let mut shape = self.dims();
        if shape[0] == batch {
            return self.clone();
        }
        shape[0] = batch;
        Tensor::expand(self.clone(), shape)
    }

    fn cat(&self, other: &Self) -> Self {
        Tensor::cat(vec![self.clone(), other.clone()], 0)
    }

    fn without_autodiff(&self) -> Self {
        Tensor::without_autodiff(self.clone())
    }
}

/// The score `∇ log p(x_t) = (alpha · x0 − x_t) / sigma²` that a prediction implies (Tweedie).
///
/// # Shapes
///
/// `x_t` and `x0_hat`: `[batch, ..]`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use dmd_core::{NoiseLevel, score};
/// # let device = Device::flex();
/// let value = |v: f32| Tensor::<1>::from_floats([v], &device);
/// let level = NoiseLevel { t: value(0.5), alpha: value(1.0), sigma: value(0.5) };
/// // (1 · 0.3 − 0.5) / 0.25 = −0.8
/// let s = score(value(0.5), value(0.3), &level);
/// assert!((s.into_scalar::<f32>() + 0.8).abs() < 1e-6);
/// ```
pub fn score<const D: usize>(x_t: Tensor<D>, x0_hat: Tensor<D>, level: &NoiseLevel) -> Tensor<D> {
    (x0_hat * per_sample(level.alpha.clone()) - x_t) / per_sample(level.sigma.clone().square())
}
