//! The variants of the losses that tables compare.

use dmd_core::matching::Weighting;
use dmd_core::objective::{DecoupledGuidance, Divergence, FDivergence, ScoreIdentity};
use dmd_core::{Objective, TimeSampler};

use crate::tables::Row;

/// What a matching term makes of the predictions of teacher and fake score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// DMD's gradient.
    Matching(Weighting),
    /// f-distill's, with the critic's ratio of densities.
    Divergence(Divergence),
    /// DMD's gradient with guidance at times of its own.
    Decoupled,
    /// SiD's loss.
    Identity {
        /// How much of the squared difference is taken off.
        alpha: f64,
    },
}

impl Goal {
    /// The objective, with a teacher's guidance and the times of the matching term.
    pub fn objective(self, scale: f64, times: &TimeSampler) -> Box<dyn Objective> {
        match self {
            Self::Matching(weighting) => Box::new(weighting),
            Self::Divergence(divergence) => Box::new(FDivergence::new(divergence)),
            Self::Decoupled => Box::new(DecoupledGuidance { scale, floor: 0.0, times: times.clone() }),
            Self::Identity { alpha } => Box::new(ScoreIdentity::new(alpha)),
        }
    }
}

/// What a generator is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    /// Its name in a table.
    pub name: &'static str,
    /// The matching term, if it is there.
    pub matching: Option<Goal>,
    /// Weight of the regression to the teacher's samples; 0 is none.
    pub regression: f64,
    /// Weight of the adversarial term; 0 is none.
    pub adversarial: f64,
    /// Fake updates per generator update.
    pub ratio: usize,
    /// Share of the generator that is mixed into the fake score after each update of the generator.
    pub alignment: f64,
    /// Learning rate of the fake score over the generator's.
    pub fake_rate: f64,
    /// Calls of the generator.
    pub steps: usize,
    /// Whether later steps start from the generator's own samples (DMD2's backward simulation) or from real
    /// ones.
    pub simulated: bool,
    /// The teacher's guidance.
    pub guidance: f64,
    /// Heun steps of the pairs.
    pub pair_steps: usize,
}

impl Variant {
    /// Two time scales, matching alone: DMD2 without its adversarial term.
    pub const BASE: Self = Self {
        name: "two time scales, ratio 5",
        matching: Some(Goal::Matching(Weighting::Normalised)),
        regression: 0.0,
        adversarial: 0.0,
        ratio: 5,
        alignment: 0.0,
        fake_rate: 1.0,
        steps: 1,
        simulated: true,
        guidance: 1.0,
        pair_steps: 18,
    };
}

pub(crate) const TEACHER: Row = Row::Teacher { name: "teacher, Heun 18", steps: 18, guidance: 1.0 };
pub(crate) const RATIO_5: Variant = Variant::BASE;
pub(crate) const REGRESSION: Variant =
    Variant { name: "regression only", matching: None, regression: 1.0, ratio: 1, ..RATIO_5 };
pub(crate) const RATIO_1: Variant = Variant { name: "matching only, ratio 1", ratio: 1, ..RATIO_5 };
pub(crate) const DMD: Variant =
    Variant { name: "DMD: matching and regression", regression: 0.25, ratio: 1, ..RATIO_5 };
pub(crate) const DMD2: Variant =
    Variant { name: "DMD2: ratio 5 and adversarial", adversarial: 0.03, ..RATIO_5 };
pub(crate) const ADVERSARIAL: Variant =
    Variant { name: "adversarial only, ratio 5", matching: None, adversarial: 0.1, ..RATIO_5 };

pub(crate) const GOOD: &str = "sharp and right";
pub(crate) const DMD2_FOUR: Variant = Variant { name: "DMD2, four steps", steps: 4, ..DMD2 };
pub(crate) const SIGMA: Variant = Variant {
    name: "ratio 5, weight sigma / alpha",
    matching: Some(Goal::Matching(Weighting::SigmaOverAlpha)),
    ..RATIO_5
};
pub(crate) const SIGMA_CUBED: Variant = Variant {
    name: "ratio 5, weight sigma³ / alpha",
    matching: Some(Goal::Matching(Weighting::SigmaCubedOverAlpha)),
    ..RATIO_5
};
pub(crate) const RATIO_10: Variant = Variant { name: "two time scales, ratio 10", ratio: 10, ..RATIO_5 };
pub(crate) const FAST_FAKE: Variant =
    Variant { name: "matching only, ratio 1, fake rate × 5", fake_rate: 5.0, ..RATIO_1 };
pub(crate) const TWO: Variant = Variant { name: "two steps, ratio 5", steps: 2, ..RATIO_5 };
pub(crate) const FOUR: Variant = Variant { name: "four steps, ratio 5", steps: 4, ..RATIO_5 };
pub(crate) const FOUR_FROM_REAL: Variant =
    Variant { name: "four steps, from diffused real samples", simulated: false, ..FOUR };
pub(crate) const COARSE_TEACHER: &str = "teacher, Heun 5";
pub(crate) const COARSE_REGRESSION: Variant =
    Variant { name: "regression only, pairs of Heun 5", pair_steps: 5, ..REGRESSION };
pub(crate) const STRONG_DMD2: Variant =
    Variant { name: "DMD2: ratio 5, adversarial weight 0.3", adversarial: 0.3, ..RATIO_5 };
/// f-distill's rows: DMD2 with another divergence.
pub(crate) const DIVERGENCES: [Variant; 3] = [
    Variant {
        name: "DMD2, Jensen–Shannon",
        matching: Some(Goal::Divergence(Divergence::JensenShannon)),
        ..DMD2
    },
    Variant { name: "DMD2, Hellinger", matching: Some(Goal::Divergence(Divergence::Hellinger)), ..DMD2 },
    Variant { name: "DMD2, forward KL", matching: Some(Goal::Divergence(Divergence::ForwardKl)), ..DMD2 },
];
/// SiD's rows, with one update of the fake score and without the generator's first moment, as published.
pub(crate) const IDENTITIES: [Variant; 2] = [
    Variant { name: "SiD, alpha 1.0", matching: Some(Goal::Identity { alpha: 1.0 }), ratio: 1, ..RATIO_5 },
    Variant { name: "SiD, alpha 1.2", matching: Some(Goal::Identity { alpha: 1.2 }), ratio: 1, ..RATIO_5 },
];
pub(crate) const SIDA: Variant = Variant {
    name: "SiD, alpha 1.0, and adversarial",
    matching: Some(Goal::Identity { alpha: 1.0 }),
    adversarial: 0.03,
    ratio: 1,
    ..RATIO_5
};
pub(crate) const ALIGNED: Variant = Variant { name: "ratio 5, alignment 0.02", alignment: 0.02, ..RATIO_5 };
pub(crate) const DECOUPLED: Variant = Variant {
    name: "the same decoupled, guidance 4",
    matching: Some(Goal::Decoupled),
    regression: 0.25,
    guidance: 4.0,
    ..RATIO_5
};
pub(crate) const GUIDED: [Variant; 4] = [
    Variant { name: "ratio 5 and regression, guidance 1", regression: 0.25, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 2", regression: 0.25, guidance: 2.0, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 4", regression: 0.25, guidance: 4.0, ..RATIO_5 },
    Variant { name: "ratio 5 and regression, guidance 8", regression: 0.25, guidance: 8.0, ..RATIO_5 },
];
