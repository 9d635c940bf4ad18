use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;
use dmd_core::{Condition, Denoiser, Diffusion, FakeScore, NoiseSchedule, Reals};

use super::{Part, Samples, Trainer, headless};
use crate::{Error, Figures, Gradients, Reduce};

/// A micro-batch of the fake score's update, with everything drawn that it needs.
struct Diffused<C> {
    x: Tensor<4>,
    condition: C,
    diffusion: Diffusion,
    /// For the critic: real samples, and how the generator's are diffused beside them.
    critic: Option<(Reals<C>, Diffusion)>,
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
}
