use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;
use dmd_core::{Condition, Denoiser, Diffusion, FakeScore, NoiseSchedule, Reals};

use super::update::Part;
use super::{Samples, Trainer, headless};
use crate::{Error, Figures, Gradients};

/// A micro-batch of the fake score's update, with everything drawn that it needs.
struct Diffused<C> {
    x: Tensor<4>,
    condition: C,
    diffusion: Diffusion,
    /// For the critic: real samples, and how the generator's are diffused beside them.
    critic: Option<(Reals<C>, Diffusion)>,
}

impl<C, G, R, F, S> Trainer<'_, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// One update of the fake score, and of its critic, on the samples of this rank's micro-batches.
    pub(super) fn fake_turn(&mut self, samples: Vec<Samples<C>>) -> Result<Figures, Error> {
        let share = 1.0 / self.config.accumulate as f64;
        let turns = self.diffuse(samples);
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
        let reported = ("fake_gradient_norm", &mut figures);
        self.fake_optimizer.update(rate, &mut self.distiller.fake, gradients, reported);
        Ok(figures)
    }

    /// Draws how samples are diffused. The noise moves on over the micro-batches of all ranks.
    fn diffuse(&mut self, samples: Vec<Samples<C>>) -> Vec<Diffused<C>> {
        let own = self.own();
        let mut turns = Vec::with_capacity(samples.len());
        let mut samples = samples.into_iter();
        for micro_batch in 0..self.config.accumulate {
            let next = if own.contains(&micro_batch) { samples.next() } else { None };
            let Some(Samples { x, condition, reals }) = next else {
                // The real samples' and the generated ones', then the fake score's own.
                self.skip_critic_diffusion();
                self.skip_critic_diffusion();
                Diffusion::skip(&mut self.noise, self.config.shape, &self.config.times);
                continue;
            };
            let critic = reals.and_then(|(x0, condition)| {
                let reals = Reals { x0, condition, diffusion: self.critic_diffusion()? };
                Some((reals, self.critic_diffusion()?))
            });
            let times = &self.config.times;
            let diffusion = Diffusion::new(&mut self.noise, self.config.shape, times, &self.device);
            turns.push(Diffused { x, condition, diffusion, critic });
        }
        turns
    }
}
