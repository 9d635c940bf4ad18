use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::matching::Weighting;
use crate::{Denoiser, Distance, FewStep, Noise, Objective, TimeSampler};

/// All randomness of one turn of the generator, drawn before anything is computed.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The generator's input, unit noise `[batch, channels, height, width]`.
    pub z: Tensor<4>,
    /// How the generator's samples are diffused for teacher and fake score.
    pub diffusion: Diffusion,
    /// For a generator of several steps: one of its later steps, and the clean samples that `z` renoises to the
    /// level of that step. They are real samples, or what [`FewStep::simulate`] makes of other noise.
    /// `None` is the first step, on `z` itself.
    pub later: Option<(usize, Tensor<4>)>,
    /// A second diffusion of the same samples, for an objective that needs one ([`Objective::second_times`]).
    pub second: Option<Diffusion>,
}

impl Draw {
    /// Draws one turn for a batch of a shape.
    pub fn new(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler, device: &Device) -> Self {
        let z = noise.normal(shape, device);
        let diffusion = Diffusion::new(noise, shape, times, device);
        Self { z, diffusion, later: None, second: None }
    }

    /// Moves `noise` on as [`Self::new`] does.
    pub fn skip(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler) {
        noise.skip_normals(shape.iter().product());
        Diffusion::skip(noise, shape, times);
    }

    /// The generator's call that this turn is about.
    pub(crate) fn through<G: Denoiser + Module>(
        &self,
        generator: &FewStep<G>,
        condition: &G::Condition,
    ) -> Tensor<4> {
        let z = self.z.clone();
        match &self.later {
            None => generator.first(z, condition),
            Some((step, x0)) => generator.call(*step, generator.renoise(*step, x0.clone(), z), condition),
        }
    }
}

/// The noise and the times that diffuse a batch of clean samples.
#[derive(Debug, Clone)]
pub struct Diffusion {
    /// Unit noise shaped like the samples.
    pub eps: Tensor<4>,
    /// Times, `[batch]`.
    pub t: Tensor<1>,
}

impl Diffusion {
    /// Draws for a batch of a shape.
    pub fn new(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler, device: &Device) -> Self {
        Self { eps: noise.normal(shape, device), t: times.draw(shape[0], noise, device) }
    }

    /// Moves `noise` on as [`Self::new`] does.
    pub fn skip(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler) {
        noise.skip_normals(shape.iter().product());
        times.skip(shape[0], noise);
    }
}

/// The terms of the generator's loss. The default is distribution matching alone (DMD2 without a critic).
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// The objective that matches distributions; `None` leaves the term out.
    pub matching: Option<&'a dyn Objective>,
    /// DMD's regression to the teacher's samples.
    pub targets: Option<Targets<'a>>,
    /// DMD2's adversarial term. It is left out where the fake score has no critic's head.
    pub adversary: Option<Adversary>,
}

impl Default for Terms<'_> {
    fn default() -> Self {
        Self { matching: Some(&Weighting::Normalised), targets: None, adversary: None }
    }
}

/// The generator's side of the adversarial term.
#[derive(Debug, Clone)]
pub struct Adversary {
    /// How the generator's samples are diffused for the critic.
    pub diffusion: Diffusion,
    /// Weight of the term (DMD2: 1e-3 for Stable Diffusion).
    pub weight: f64,
}

/// The teacher's own samples for the first rows of a batch.
#[derive(Debug, Clone)]
pub struct Targets<'a> {
    /// What the teacher's deterministic sampler makes of the first rows of `z`.
    pub x0: Tensor<4>,
    /// Weight of the regression term (DMD: 0.25).
    pub weight: f64,
    /// The distance that is minimised.
    pub distance: &'a dyn Distance,
}

/// Real samples for the critic.
#[derive(Debug, Clone)]
pub struct Reals<C> {
    /// Clean samples, `[batch, ..]`.
    pub x0: Tensor<4>,
    /// What they are conditioned on.
    pub condition: C,
    /// How they are diffused.
    pub diffusion: Diffusion,
}

/// The generator's loss and its terms.
#[derive(Debug, Clone)]
pub struct GeneratorLoss {
    /// The loss to differentiate, `[1]`; 0 without any term.
    pub total: Tensor<1>,
    /// The objective's loss. That of a [`Weighting`] is the surrogate of distribution matching, `½ · mean g²`. It is no
    /// measure of progress.
    pub matching: Option<Tensor<1>>,
    /// The regression term before its weight.
    pub regression: Option<Tensor<1>>,
    /// The adversarial term before its weight.
    pub adversarial: Option<Tensor<1>>,
    /// The generator's samples on the plain side, for the fake score's turn.
    pub x: Tensor<4>,
}

/// The critic's loss.
#[derive(Debug, Clone)]
pub struct CriticLoss {
    /// The loss to differentiate, `[1]`.
    pub loss: Tensor<1>,
    /// Mean logit of the real samples, `[1]`, on the plain side.
    pub real_logit: Tensor<1>,
    /// Mean logit of the generated ones, `[1]`, on the plain side.
    pub fake_logit: Tensor<1>,
}
