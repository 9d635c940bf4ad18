//! Distillation as a value that advances by steps.

mod batch;
mod config;
mod state;
mod turns;

use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_core::{
    Adversary, Condition, Denoiser, Diffusion, Distiller, Draw, FakeScore, FewStep, Noise, NoiseSchedule,
};

pub use self::batch::{Batch, Turn};
pub use self::config::{Adversarial, Regression, TrainerConfig};
use self::turns::{Drawn, Samples};
use crate::parallel::both;
use crate::{AdamW, Alone, Ema, Error, Figures, Reduce};

/// The state of a distillation: networks, their optimisers, the average of the generator, the noise, and how many steps
/// were made.
///
/// It needs a [`FakeScore`] network, a [`Denoiser`] as teacher, a [`NoiseSchedule`] and batches of conditions; see
/// `examples/distill_mixture.rs`.
#[derive(Debug)]
pub struct Trainer<'a, G: Denoiser + Module + ModuleDisplay, R: Debug, F: Debug, S: Debug, X = Alone> {
    config: TrainerConfig<'a>,
    distiller: Distiller<G, R, F, S>,
    average: Ema<FewStep<G>>,
    generator_optimizer: AdamW,
    fake_optimizer: AdamW,
    noise: Noise,
    device: Device,
    steps: usize,
    reduce: X,
}

impl<'a, C, G, R, F, S> Trainer<'a, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// A trainer that has not stepped. The networks of the distiller live on the training side
    /// ([`Device::autodiff`]), the teacher and `device` on the plain side. Teacher and fake score are evaluated side
    /// by side.
    pub fn new(
        config: TrainerConfig<'a>,
        distiller: Distiller<G, R, F, S>,
        noise: Noise,
        device: &Device,
    ) -> Self {
        Self {
            average: Ema::new(&distiller.generator, config.ema_decay),
            generator_optimizer: AdamW::new(config.optimizer),
            fake_optimizer: AdamW::new(config.optimizer),
            distiller: distiller.with_both(both),
            config,
            noise,
            device: device.clone(),
            steps: 0,
            reduce: Alone,
        }
    }
}

impl<'a, C, G, R, F, S, X> Trainer<'a, G, R, F, S, X>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
    X: Reduce,
{
    /// The same trainer as one of several ranks.
    pub fn with_reduce<Y: Reduce>(self, reduce: Y) -> Trainer<'a, G, R, F, S, Y> {
        Trainer {
            config: self.config,
            distiller: self.distiller,
            average: self.average,
            generator_optimizer: self.generator_optimizer,
            fake_optimizer: self.fake_optimizer,
            noise: self.noise,
            device: self.device,
            steps: self.steps,
            reduce,
        }
    }

    /// One update of the generator and [`TrainerConfig::fake_updates`] of the fake score. `batches` is called for every
    /// micro-batch of every update; it draws its random numbers from the trainer's noise. The figures are means over
    /// all micro-batches, and over all updates of the fake score.
    ///
    /// The device is not waited for. A loss or gradient that is not finite is found when the figures are read; an
    /// optimiser never takes a step along it.
    ///
    /// # Errors
    ///
    /// What `batches` returns, or the reduction over ranks. [`Error::Training`] when the batches or the networks lack
    /// what the configuration asks for: pairs in the warm-up, real samples and a critic's head for the adversarial term.
    pub fn step(
        &mut self,
        mut batches: impl FnMut(Turn, &mut Noise) -> Result<Batch<C>, Error>,
    ) -> Result<Figures, Error> {
        let mut turns = Vec::with_capacity(self.config.accumulate);
        for _ in 0..self.config.accumulate {
            let (draw, batch) = self.draw(Turn::Generator, &mut batches)?;
            let adversary = self.adversary();
            turns.push(Drawn { draw, batch, adversary });
        }
        let (mut samples, mut figures) = self.generator_turn(turns)?;
        let mut fake = Vec::with_capacity(self.config.fake_updates);
        for update in 0..self.config.fake_updates {
            // The fake score sees the very samples of this turn first, then fresh ones.
            if update > 0 {
                for _ in 0..self.config.accumulate {
                    let (draw, batch) = self.draw(Turn::Fake, &mut batches)?;
                    let x = self.distiller.samples(&draw, &batch.condition);
                    samples.push(Samples { x, condition: batch.condition, reals: batch.reals });
                }
            }
            fake.push(self.fake_turn(std::mem::take(&mut samples))?);
        }
        figures.extend(Figures::mean(fake));
        self.steps += 1;
        Ok(figures)
    }

    /// One micro-batch with its noise: paired rows first, then fresh ones; for a generator of several steps which step
    /// it is, the same for the whole batch, and the samples it starts from.
    fn draw(
        &mut self,
        turn: Turn,
        batches: &mut impl FnMut(Turn, &mut Noise) -> Result<Batch<C>, Error>,
    ) -> Result<(Draw, Batch<C>), Error> {
        let (shape, device) = (self.config.shape, &self.device);
        let mut draw = Draw::new(&mut self.noise, shape, &self.config.matching_times, device);
        let batch = batches(turn, &mut self.noise)?;
        self.check(turn, &batch)?;
        if let Some([z, _]) = &batch.pairs {
            let (count, all) = (z.dims()[0], shape[0]);
            draw.z = match count < all {
                true => Tensor::cat(vec![z.clone(), draw.z.narrow(0, count, all - count)], 0),
                false => z.clone(),
            };
        }
        let generator = &self.distiller.generator;
        let steps = generator.levels().len();
        let step = if steps > 1 { self.noise.below(steps) } else { 0 };
        if step > 0 {
            let noise = &mut self.noise;
            let x0 = batch.start.clone().unwrap_or_else(|| {
                let z = noise.normal(shape, device);
                generator.simulate(step, z, &batch.condition, &mut || noise.normal(shape, device))
            });
            draw.later = Some((step, x0));
        }
        Ok((draw, batch))
    }

    /// Checks that a batch has what its turn needs, and nothing that does not fit.
    fn check(&self, turn: Turn, batch: &Batch<C>) -> Result<(), Error> {
        if self.config.adversarial.is_some() && self.config.fake_updates > 0 && batch.reals.is_none() {
            return Err(refusal("the adversarial term needs batches with real samples"));
        }
        let Some([z, x0]) = &batch.pairs else {
            let lacks = turn == Turn::Generator && self.warms_up();
            return if lacks { Err(refusal("the warm-up needs batches with pairs")) } else { Ok(()) };
        };
        let steps = self.distiller.generator.levels().len();
        if steps > 1 {
            return Err(Error::Training(format!(
                "a batch with pairs for a generator of {steps} steps; pairs belong to generators of one step"
            )));
        }
        let (shape, [count, ..]) = (self.config.shape, z.dims());
        if z.dims() != x0.dims() || z.dims()[1..] != shape[1..] || !(1..=shape[0]).contains(&count) {
            let (z, x0) = (z.dims(), x0.dims());
            return Err(Error::Training(format!(
                "pairs of the shapes {z:?} and {x0:?} do not fit into a batch of the shape {shape:?}"
            )));
        }
        Ok(())
    }

    /// Whether this step is of the warm-up by regression alone.
    fn warms_up(&self) -> bool {
        self.steps < self.config.regression.warmup_steps
    }

    /// The noise of one diffusion for the critic.
    fn critic_diffusion(&mut self) -> Option<Diffusion> {
        let times = &self.config.adversarial.as_ref()?.times;
        Some(Diffusion::new(&mut self.noise, self.config.shape, times, &self.device))
    }

    fn adversary(&mut self) -> Option<Adversary> {
        let weight = self.config.adversarial.as_ref().filter(|_| !self.warms_up())?.generator_weight;
        Some(Adversary { diffusion: self.critic_diffusion()?, weight })
    }

    /// The averaged generator, on the plain side.
    pub fn generator(&self) -> &FewStep<G> {
        self.average.model()
    }

    /// The networks as they are trained.
    pub fn distiller(&self) -> &Distiller<G, R, F, S> {
        &self.distiller
    }

    /// How many steps were made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The stream of random numbers, to record and to restore its position.
    pub fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }
}

fn refusal(reason: &str) -> Error {
    Error::Training(reason.to_owned())
}
