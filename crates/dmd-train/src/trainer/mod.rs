//! Distillation as a value that advances by steps.

mod batch;
mod config;
mod fake;
mod ranks;
mod state;
mod update;

use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_core::{
    Adversary, Condition, Denoiser, Distiller, Draw, FakeScore, FewStep, Noise, NoiseSchedule, Targets, Terms,
};

pub use self::batch::{Batch, LazyBatch, Turn};
pub use self::config::{Adversarial, Regression, TrainerConfig};
pub(crate) use self::state::read;
use self::update::Part;
use crate::parallel::both;
use crate::{AdamW, Alone, Collective, Ema, Error, Figures, Gradients, align, together};

/// The state of a distillation: networks, their optimisers, the average of the generator, the noise, and how many steps
/// were made.
///
/// It needs a [`FakeScore`] network, a [`Denoiser`] as teacher, a [`NoiseSchedule`] and batches of conditions; see
/// `examples/distill_mixture.rs`.
#[derive(Debug)]
pub struct Trainer<'a, G: Denoiser + Module + ModuleDisplay, R: Debug, F: Debug, S: Debug> {
    config: TrainerConfig<'a>,
    distiller: Distiller<G, R, F, S>,
    average: Ema,
    generator_optimizer: AdamW,
    fake_optimizer: AdamW,
    noise: Noise,
    device: Device,
    steps: usize,
    ranks: &'a dyn Collective,
}

/// A micro-batch of the generator's update, with everything drawn that it needs.
struct Drawn<C> {
    draw: Draw,
    batch: Batch<C>,
    adversary: Option<Adversary>,
}

/// Samples on which the fake score is updated.
struct Samples<C> {
    x: Tensor<4>,
    condition: C,
    reals: Option<(Tensor<4>, C)>,
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
            average: Ema::new(
                &distiller.generator,
                config.ema_decay,
                config.ema_place.as_ref().unwrap_or(device),
            ),
            generator_optimizer: AdamW::new(config.optimizer),
            fake_optimizer: AdamW::new(config.optimizer),
            distiller: distiller.with_both(both),
            config,
            noise,
            device: device.clone(),
            steps: 0,
            ranks: &Alone,
        }
    }

    /// One update of the generator and [`TrainerConfig::fake_updates`] of the fake score. `batches` is called for every
    /// micro-batch of every update, those of other ranks included; it draws its random numbers from the trainer's noise. The figures are means over
    /// all micro-batches, and over all updates of the fake score.
    ///
    /// The device is waited for only with several ranks, or with an average on the host. A loss or gradient that is not finite is found when the figures are read; an
    /// optimiser never takes a step along it.
    ///
    /// # Errors
    ///
    /// What `batches` returns. [`Error::Training`] when the batches or the networks lack what the configuration asks for:
    /// pairs in the warm-up, real samples and a critic's head for the adversarial term. [`Error::Rank`] when another rank
    /// failed or has ended.
    pub fn step<L: LazyBatch<C>>(
        &mut self,
        mut batches: impl FnMut(Turn, &mut Noise) -> Result<L, Error>,
    ) -> Result<Figures, Error> {
        if self.config.accumulate == 0 {
            return Err(refusal("an update of 0 micro-batches; `accumulate` must be at least 1"));
        }
        let drawn = self.draw(Turn::Generator, &mut batches);
        let (mut samples, mut figures) = self.generator_turn(together(self.ranks, drawn)?)?;
        let mut fake = Vec::with_capacity(self.config.fake_updates);
        for update in 0..self.config.fake_updates {
            // The fake score sees the very samples of this turn first, then fresh ones.
            if update > 0 {
                let drawn = self.draw(Turn::Fake, &mut batches);
                samples.extend(together(self.ranks, drawn)?.into_iter().map(
                    |Drawn { draw, batch, .. }| {
                        let x = self.distiller.samples(&draw, &batch.condition);
                        Samples { x, condition: batch.condition, reals: batch.reals }
                    },
                ));
            }
            fake.push(self.fake_turn(std::mem::take(&mut samples))?);
        }
        figures.extend(Figures::mean(fake));
        self.steps += 1;
        Ok(figures)
    }

    /// One update of the generator; its samples go on to the fake score.
    fn generator_turn(&mut self, turns: Vec<Drawn<C>>) -> Result<(Vec<Samples<C>>, Figures), Error> {
        let share = 1.0 / self.config.accumulate as f64;
        let (config, distiller, warms_up) = (&self.config, &self.distiller, self.warms_up());
        // The warm-up is the regression alone, whatever its weight is later.
        let weight = if warms_up { 1.0 } else { config.regression.weight };
        let work = |Drawn { draw, batch, adversary }: Drawn<C>| {
            let distiller = distiller.fork();
            let distance = config.regression.distance.as_ref();
            let terms = Terms {
                matching: config.matching.as_deref().filter(|_| !warms_up),
                targets: batch.pairs.map(|[_, x0]| Targets { x0, weight, distance }),
                adversary,
            };
            let loss = distiller.generator_loss(&draw, &terms, &batch.condition);
            let loss = loss.map_err(|lacks| refusal(&lacks.to_string()))?;
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
        let reported = ("gradient_norm", &mut figures);
        self.generator_optimizer.update(rate, &mut self.distiller.generator, gradients, reported);
        if self.config.alignment > 0.0 {
            let Distiller { generator, fake, .. } = &mut self.distiller;
            align(fake, &generator.denoiser, self.config.alignment)?;
        }
        self.average.update(&self.distiller.generator, self.steps);
        figures.number("learning_rate", rate);
        Ok((samples, figures))
    }

    /// The averaged generator, on the plain side; the generator itself where no average is kept.
    pub fn generator(&self) -> FewStep<G> {
        self.average.of(&self.distiller.generator)
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

/// The adversarial term would silently be left out.
fn headless() -> Error {
    refusal("the adversarial term needs a fake score with a critic's head")
}
