//! What moves the generator's samples towards the teacher's: [`Objective`], which anybody can implement, and the published
//! ones.

mod decoupled;
mod divergence;
mod identity;

use std::fmt::{self, Debug};

use burn::tensor::Tensor;

pub use self::decoupled::DecoupledGuidance;
pub use self::divergence::{Divergence, FDivergence};
pub use self::identity::ScoreIdentity;
use crate::matching::{Weighting, surrogate_loss};
use crate::{Diffusion, NoiseLevel, TimeSampler};

/// A loss of the generator's samples, made of what teacher and fake score predict about them.
///
/// [`Weighting`] is DMD's own: the difference of the two predictions, weighted. An objective of your own:
///
/// ```
/// use burn::tensor::Tensor;
/// use dmd_core::objective::{Lacks, Matched, Objective};
/// use dmd_core::matching::surrogate_loss;
///
/// /// The difference of the predictions as it is.
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Objective for Plain {
///     fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
///         let (x_t, level) = matched.diffused();
///         let [real, fake] = matched.networks.both(x_t, &level);
///         Ok(surrogate_loss(matched.x.clone(), fake - real))
///     }
/// }
/// ```
pub trait Objective: Debug + Send + Sync {
    /// The loss, `[1]`. Its gradient reaches the generator through [`Matched::x`] and nothing else.
    ///
    /// # Errors
    ///
    /// What the distillation lacks for it.
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks>;

    /// Times of a second diffusion of the same samples, for an objective that needs one ([`Matched::second`]).
    fn second_times(&self) -> Option<&TimeSampler> {
        None
    }
}

/// The generator's samples, how they are diffused, and whom to ask about them.
#[derive(Clone, Copy)]
pub struct Matched<'a> {
    /// The generator's clean samples `[batch, channels, height, width]`, tracked by autodiff.
    pub x: &'a Tensor<4>,
    /// How they are diffused.
    pub diffusion: &'a Diffusion,
    /// The second diffusion, where [`Objective::second_times`] asked for one.
    pub second: Option<&'a Diffusion>,
    /// Teacher and fake score.
    pub networks: &'a dyn Networks,
}

impl Debug for Matched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matched").field("x", &self.x.dims()).finish_non_exhaustive()
    }
}

impl Matched<'_> {
    /// The clean samples on the plain side of autodiff.
    pub fn plain(&self) -> Tensor<4> {
        self.x.clone().without_autodiff()
    }

    /// The diffused samples on the plain side, and their level.
    pub fn diffused(&self) -> (Tensor<4>, NoiseLevel) {
        self.diffuse(self.plain(), self.diffusion)
    }

    /// Samples, diffused, and their level.
    pub fn diffuse(&self, x: Tensor<4>, diffusion: &Diffusion) -> (Tensor<4>, NoiseLevel) {
        let level = self.networks.level(diffusion);
        (level.add_noise(x, diffusion.eps.clone()), level)
    }
}

/// Teacher and fake score with the condition of a batch. Their parameters are not tracked; what they compute of tracked
/// samples is.
pub trait Networks {
    /// The level of a diffusion's times.
    fn level(&self, diffusion: &Diffusion) -> NoiseLevel;

    /// The teacher's prediction of clean samples, guided where it is.
    fn teacher(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4>;

    /// The teacher's prediction with the condition and without guidance.
    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4>;

    /// A guided teacher's predictions with the condition and without it; `None` of a teacher without guidance.
    fn branches(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<[Tensor<4>; 2]>;

    /// The fake score's prediction of clean samples.
    fn fake(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4>;

    /// [`Self::teacher`] and [`Self::fake`] of samples on the plain side, at once where threads are left.
    fn both(&self, x_t: Tensor<4>, level: &NoiseLevel) -> [Tensor<4>; 2];

    /// The critic's logits `[batch, 1]`: positive for what it takes for real. `None` without a critic's head.
    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<Tensor<2>>;
}

/// What an objective needs and a distillation does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lacks {
    /// A critic's head on the fake score.
    Critic,
    /// A teacher with guidance.
    Guidance,
    /// A second diffusion in the turn's draw ([`crate::Draw::second`]).
    Diffusion,
    /// Something that an objective of your own needs, in words.
    Other(&'static str),
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Critic => "a fake score with a critic's head",
            Self::Guidance => "a guided teacher",
            Self::Diffusion => "a second diffusion of the samples",
            Self::Other(what) => what,
        };
        write!(f, "the objective needs {what}")
    }
}

impl std::error::Error for Lacks {}

/// DMD's objective, and DMD2's.
impl Objective for Weighting {
    fn loss(&self, matched: &Matched<'_>) -> Result<Tensor<1>, Lacks> {
        let (x_t, level) = matched.diffused();
        let [real, fake] = matched.networks.both(x_t, &level);
        Ok(surrogate_loss(matched.x.clone(), self.gradient(matched.plain(), real, fake, &level)))
    }
}
