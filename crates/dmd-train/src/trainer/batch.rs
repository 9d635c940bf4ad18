//! What a trainer draws for its turns.

use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;
use dmd_core::{
    Adversary, Condition, Denoiser, Diffusion, Draw, FakeScore, Noise, NoiseSchedule, TimeSampler,
};

use super::{Drawn, Trainer, TrainerConfig, refusal};
use crate::Error;

/// Which network a micro-batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The generator, and the fake score's update on the samples of that turn.
    Generator,
    /// A further update of the fake score. It needs no pairs.
    Fake,
}

/// What a micro-batch is about.
#[derive(Debug, Clone)]
pub struct Batch<C> {
    pub(super) condition: C,
    pub(super) pairs: Option<[Tensor<4>; 2]>,
    pub(super) reals: Option<(Tensor<4>, C)>,
    pub(super) start: Option<Tensor<4>>,
}

impl<C: Condition> Batch<C> {
    /// A batch of conditions, one row per sample (or one row for all).
    pub fn new(condition: C) -> Self {
        Self { condition, pairs: None, reals: None, start: None }
    }

    /// The same batch with pairs for its first rows: noise, and what the teacher's sampler makes of it.
    pub fn with_pairs(self, z: Tensor<4>, x0: Tensor<4>) -> Self {
        Self { pairs: Some([z, x0]), ..self }
    }

    /// The same batch with real samples and their condition, for the critic.
    pub fn with_reals(self, x0: Tensor<4>, condition: C) -> Self {
        Self { reals: Some((x0, condition)), ..self }
    }

    /// The same batch with clean samples from which a generator's later steps start, in place of the generator's own
    /// (DMD2's backward simulation).
    pub fn with_start(self, x0: Tensor<4>) -> Self {
        Self { start: Some(x0), ..self }
    }
}

/// A batch that is drawn: a [`Batch`], or a function that makes it. With several ranks each rank draws every micro-batch,
/// so that the random numbers of all stay in step, and makes its own ones only. What is slow, reading files and computing
/// conditions, belongs into the function.
pub trait LazyBatch<C> {
    /// The batch.
    ///
    /// # Errors
    ///
    /// What the data source returns.
    fn make(self) -> Result<Batch<C>, Error>;
}

impl<C> LazyBatch<C> for Batch<C> {
    fn make(self) -> Result<Self, Error> {
        Ok(self)
    }
}

impl<C, F: FnOnce() -> Result<Batch<C>, Error>> LazyBatch<C> for F {
    fn make(self) -> Result<Batch<C>, Error> {
        self()
    }
}

/// Times of a second diffusion, where the objective needs one.
fn second_times<'a>(config: &'a TrainerConfig<'_>, turn: Turn) -> Option<&'a TimeSampler> {
    config.matching.as_deref().filter(|_| turn == Turn::Generator)?.second_times()
}

impl<C, G, R, F, S> Trainer<'_, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// This rank's micro-batches of an update. The noise moves on over those of all ranks.
    pub(super) fn draw<L: LazyBatch<C>>(
        &mut self,
        turn: Turn,
        batches: &mut impl FnMut(Turn, &mut Noise) -> Result<L, Error>,
    ) -> Result<Vec<Drawn<C>>, Error> {
        let own = self.own();
        let mut drawn = Vec::with_capacity(own.len());
        for micro_batch in 0..self.config.accumulate {
            if own.contains(&micro_batch) {
                drawn.push(self.draw_one(turn, batches)?);
            } else {
                self.skip_one(turn, batches)?;
            }
        }
        Ok(drawn)
    }

    /// One micro-batch with its noise: paired rows first, then fresh ones; for a generator of several steps which step
    /// it is, the same for the whole batch, and the samples it starts from.
    fn draw_one<L: LazyBatch<C>>(
        &mut self,
        turn: Turn,
        batches: &mut impl FnMut(Turn, &mut Noise) -> Result<L, Error>,
    ) -> Result<Drawn<C>, Error> {
        let (shape, device) = (self.config.shape, &self.device);
        let mut draw = Draw::new(&mut self.noise, shape, &self.config.matching_times, device);
        let batch = batches(turn, &mut self.noise)?.make()?;
        self.check(turn, &batch)?;
        if let Some(times) = second_times(&self.config, turn) {
            draw.second = Some(Diffusion::new(&mut self.noise, shape, times, device));
        }
        if let Some([z, _]) = &batch.pairs {
            let (count, all) = (z.dims()[0], shape[0]);
            draw.z = match count < all {
                true => Tensor::cat(vec![z.clone(), draw.z.narrow(0, count, all - count)], 0),
                false => z.clone(),
            };
        }
        let step = self.draw_call();
        if step > 0 {
            let x0 = match &batch.start {
                Some(x0) => {
                    self.skip_simulation(step);
                    x0.clone()
                }
                None => {
                    let (noise, device) = (&mut self.noise, &self.device);
                    let z = noise.normal(shape, device);
                    let generator = &self.distiller.generator;
                    generator.simulate(step, z, &batch.condition, &mut || noise.normal(shape, device))
                }
            };
            draw.later = Some((step, x0));
        }
        let adversary = if turn == Turn::Generator { self.adversary() } else { None };
        Ok(Drawn { draw, batch, adversary })
    }

    /// Moves the noise on over another rank's micro-batch, as [`Self::draw_one`] does.
    fn skip_one<L>(
        &mut self,
        turn: Turn,
        batches: &mut impl FnMut(Turn, &mut Noise) -> Result<L, Error>,
    ) -> Result<(), Error> {
        Draw::skip(&mut self.noise, self.config.shape, &self.config.matching_times);
        batches(turn, &mut self.noise)?;
        if let Some(times) = second_times(&self.config, turn) {
            Diffusion::skip(&mut self.noise, self.config.shape, times);
        }
        let step = self.draw_call();
        self.skip_simulation(step);
        if turn == Turn::Generator && !self.warms_up() {
            self.skip_critic_diffusion();
        }
        Ok(())
    }

    /// Which of the generator's calls a micro-batch is about.
    fn draw_call(&mut self) -> usize {
        let steps = self.distiller.generator.levels().len();
        if steps > 1 { self.noise.below(steps) } else { 0 }
    }

    /// [`dmd_core::FewStep::simulate`] takes one noise for each call.
    fn skip_simulation(&mut self, calls: usize) {
        (0..calls).for_each(|_| self.noise.skip_normals(self.config.shape.iter().product()));
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
    pub(super) fn warms_up(&self) -> bool {
        self.steps < self.config.regression.warmup_steps
    }

    /// The noise of one diffusion for the critic.
    pub(super) fn critic_diffusion(&mut self) -> Option<Diffusion> {
        let times = &self.config.adversarial.as_ref()?.times;
        Some(Diffusion::new(&mut self.noise, self.config.shape, times, &self.device))
    }

    /// Moves the noise on as [`Self::critic_diffusion`] does.
    pub(super) fn skip_critic_diffusion(&mut self) {
        if let Some(section) = &self.config.adversarial {
            Diffusion::skip(&mut self.noise, self.config.shape, &section.times);
        }
    }

    /// What the adversarial term of a generator's micro-batch needs, after the warm-up.
    fn adversary(&mut self) -> Option<Adversary> {
        let weight = self.config.adversarial.as_ref().filter(|_| !self.warms_up())?.generator_weight;
        Some(Adversary { diffusion: self.critic_diffusion()?, weight })
    }
}
