//! One update of the generator, and one of the fake score.

use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;
use dmd_core::{
    Adversary, Condition, Denoiser, Diffusion, Draw, FakeScore, NoiseSchedule, Reals, Targets, Terms,
};

use super::{Batch, Trainer, refusal};
use crate::parallel::side_by_side;
use crate::{Error, Figures, Gradients, Reduce};

/// A micro-batch of the generator's update, with everything drawn that it needs.
pub(super) struct Drawn<C> {
    pub(super) draw: Draw,
    pub(super) batch: Batch<C>,
    pub(super) adversary: Option<Adversary>,
}

/// Samples on which the fake score is updated.
pub(super) struct Samples<C> {
    pub(super) x: Tensor<4>,
    pub(super) condition: C,
    pub(super) reals: Option<(Tensor<4>, C)>,
}

/// A micro-batch of the fake score's update, with everything drawn that it needs.
struct Diffused<C> {
    x: Tensor<4>,
    condition: C,
    diffusion: Diffusion,
    /// For the critic: real samples, and how the generator's are diffused beside them.
    critic: Option<(Reals<C>, Diffusion)>,
}

/// What a micro-batch gives to the update of a network.
struct Part<P> {
    gradients: Gradients,
    figures: Figures,
    made: P,
}

impl<C, G, R, F, S, X> Trainer<'_, G, R, F, S, X>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
    X: Reduce,
{
    /// One update of the generator; its samples go on to the fake score.
    pub(super) fn generator_turn(
        &mut self,
        turns: Vec<Drawn<C>>,
    ) -> Result<(Vec<Samples<C>>, Figures), Error> {
        let share = 1.0 / turns.len() as f64;
        let (config, distiller, warms_up) = (&self.config, &self.distiller, self.warms_up());
        // The warm-up is the regression alone, whatever its weight is later.
        let weight = if warms_up { 1.0 } else { config.regression.weight };
        let work = |Drawn { draw, batch, adversary }: Drawn<C>| {
            let distiller = distiller.fork();
            let distance = config.regression.distance.as_ref();
            let terms = Terms {
                matching: config.matching.filter(|_| !warms_up),
                targets: batch.pairs.map(|[_, x0]| Targets { x0, weight, distance }),
                adversary,
            };
            let loss = distiller.generator_loss(&draw, &terms, &batch.condition);
            if terms.adversary.is_some() && loss.adversarial.is_none() {
                return Err(headless());
            }
            let gradients = Gradients::of(loss.total * share, &distiller.generator);
            let mut figures = Figures::new();
            let terms = [
                ("matching", loss.matching),
                ("regression", loss.regression),
                ("adversarial", loss.adversarial),
            ];
            for (name, value) in terms {
                value.into_iter().for_each(|value| figures.loss(name, value));
            }
            let mean = loss.x.clone().mean();
            let spread = loss.x.clone() - mean.clone().reshape([1, 1, 1, 1]);
            figures.note("sample_mean", mean);
            figures.note("sample_deviation", spread.square().mean().sqrt());
            let made = Samples { x: loss.x, condition: batch.condition, reals: batch.reals };
            Ok(Part { gradients, figures, made })
        };
        let (gradients, mut figures, samples) = self.update(turns, work)?;
        let rate = self.config.generator_rate.at(self.steps);
        let (generator, reported) = (self.distiller.generator.clone(), ("gradient_norm", &mut figures));
        self.distiller.generator = self.generator_optimizer.update(rate, generator, gradients, reported);
        self.average = self.average.clone().update(&self.distiller.generator, self.steps);
        figures.number("learning_rate", rate);
        Ok((samples, figures))
    }

    /// One update of the fake score, and of its critic.
    pub(super) fn fake_turn(&mut self, samples: Vec<Samples<C>>) -> Result<Figures, Error> {
        let share = 1.0 / samples.len() as f64;
        let mut turns = Vec::with_capacity(samples.len());
        for Samples { x, condition, reals } in samples {
            let critic = reals.and_then(|(x0, condition)| {
                let reals = Reals { x0, condition, diffusion: self.critic_diffusion()? };
                Some((reals, self.critic_diffusion()?))
            });
            let times = &self.config.times;
            let diffusion = Diffusion::new(&mut self.noise, self.config.shape, times, &self.device);
            turns.push(Diffused { x, condition, diffusion, critic });
        }
        let distiller = &self.distiller;
        let weight = self.config.adversarial.as_ref().map_or(0.0, |section| section.critic_weight);
        let work = |Diffused { x, condition, diffusion, critic }: Diffused<C>| {
            let distiller = distiller.fork();
            let critic = critic.map(|(reals, diffusion)| {
                let loss = distiller.critic_loss(x.clone(), &diffusion, &condition, &reals);
                loss.ok_or_else(headless)
            });
            let critic = critic.transpose()?;
            let loss = distiller.fake_loss(x, &diffusion, &condition);
            let mut figures = Figures::new();
            figures.loss("fake", loss.clone());
            let mut total = loss * share;
            if let Some(critic) = critic {
                total = total + critic.loss.clone() * (weight * share);
                figures.loss("critic", critic.loss);
                figures.note("logit_real", critic.real_logit);
                figures.note("logit_generated", critic.fake_logit);
            }
            Ok(Part { gradients: Gradients::of(total, &distiller.fake), figures, made: () })
        };
        let (gradients, mut figures, _) = self.update(turns, work)?;
        let rate = self.config.fake_rate.at(self.steps);
        let (fake, reported) = (self.distiller.fake.clone(), ("fake_gradient_norm", &mut figures));
        self.distiller.fake = self.fake_optimizer.update(rate, fake, gradients, reported);
        Ok(figures)
    }

    /// The sum of the gradients of an update's micro-batches, its mean over all ranks; the means of their figures; and
    /// what else `work` made of each.
    fn update<T: Send, P: Send>(
        &self,
        turns: Vec<T>,
        work: impl Fn(T) -> Result<Part<P>, Error> + Sync,
    ) -> Result<(Gradients, Figures, Vec<P>), Error> {
        let mut sum: Option<Gradients> = None;
        let (mut figures, mut made, mut failed) = (Vec::new(), Vec::new(), None);
        side_by_side(turns, self.config.parallel, work, |part| match part {
            Ok(part) => {
                match &mut sum {
                    Some(sum) => sum.add(part.gradients),
                    None => sum = Some(part.gradients),
                }
                figures.push(part.figures);
                made.push(part.made);
            }
            Err(error) => failed = Some(error),
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let none = || refusal("an update of 0 micro-batches; `accumulate` must be at least 1");
        let mut gradients = sum.ok_or_else(none)?;
        self.reduce.reduce(&mut gradients)?;
        Ok((gradients, Figures::mean(figures), made))
    }
}

/// The adversarial term would silently be left out.
fn headless() -> Error {
    refusal("the adversarial term needs a fake score with a critic's head")
}
