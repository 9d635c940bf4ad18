use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use dmd_core::matching::Weighting;
use dmd_core::{
    Adversary, Condition, Denoiser, Diffusion, Distance, Distiller, Draw, FakeScore, FewStep, Noise,
    NoiseSchedule, Reals, SquaredError, Targets, Terms, TimeSampler,
};
use dmd_weights::Precision;

use crate::parallel::{both, side_by_side};
use crate::training::PLAIN_KEYS;
use crate::{AdamW, AdamWConfig, Alone, Ema, Error, Figures, Gradients, LearningRate, Reduce};

/// How a [`Trainer`] trains.
#[derive(Debug)]
pub struct TrainerConfig<'a> {
    /// Shape of a micro-batch of samples, `[batch, channels, height, width]`.
    pub shape: [usize; 4],
    /// Micro-batches per update; gradients are averaged over them.
    pub accumulate: usize,
    /// Micro-batches computed side by side on a CPU's threads. Each holds its own activations.
    pub parallel: usize,
    /// Learning rate of the generator.
    pub generator_rate: LearningRate,
    /// Learning rate of the fake score.
    pub fake_rate: LearningRate,
    /// Updates of the fake score per update of the generator (DMD: 1; DMD2: 5 to 10).
    pub fake_updates: usize,
    /// Decay of the moving average of the generator's parameters; 0 is no average.
    pub ema_decay: f64,
    /// Constants of both optimisers.
    pub optimizer: AdamWConfig,
    /// The weighting of distribution matching; `None` leaves the term out.
    pub matching: Option<Weighting>,
    /// Times to which distribution matching diffuses the generator's samples (DMD: 20 to 980 of 1000).
    pub matching_times: TimeSampler,
    /// All times of the schedule, for the fake score.
    pub times: TimeSampler,
    /// DMD's regression to the teacher's samples, on batches that have pairs.
    pub regression: Regression<'a>,
    /// DMD2's adversarial term, on batches that have real samples. The fake score needs a critic's head.
    pub adversarial: Option<Adversarial>,
}

/// DMD's regression term.
#[derive(Debug)]
pub struct Regression<'a> {
    /// Weight beside the matching term (DMD: 0.25).
    pub weight: f64,
    /// What is minimised.
    pub distance: Box<dyn Distance + 'a>,
    /// First steps with the regression alone.
    pub warmup_steps: usize,
}

impl Default for Regression<'_> {
    /// The squared error with DMD's weight, without a warm-up.
    fn default() -> Self {
        Self { weight: 0.25, distance: Box::new(SquaredError), warmup_steps: 0 }
    }
}

/// DMD2's adversarial term.
#[derive(Debug, Clone)]
pub struct Adversarial {
    /// Weight in the generator's loss (DMD2: 1e-3 for Stable Diffusion).
    pub generator_weight: f64,
    /// Weight in the fake score's loss (DMD2: 1e-2).
    pub critic_weight: f64,
    /// Times at which the critic sees samples.
    pub times: TimeSampler,
}

impl TrainerConfig<'_> {
    /// DMD2's first stage: distribution matching with five updates of the fake score for one of the generator, both at
    /// the constant learning rate 1e-5, without an average.
    pub fn new(shape: [usize; 4], matching_times: TimeSampler, times: TimeSampler) -> Self {
        Self {
            shape,
            accumulate: 1,
            parallel: 1,
            generator_rate: LearningRate::constant(1e-5, 0),
            fake_rate: LearningRate::constant(1e-5, 0),
            fake_updates: 5,
            ema_decay: 0.0,
            optimizer: AdamWConfig::default(),
            matching: Some(Weighting::Normalised),
            matching_times,
            times,
            regression: Regression::default(),
            adversarial: None,
        }
    }
}

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
    condition: C,
    pairs: Option<[Tensor<4>; 2]>,
    reals: Option<(Tensor<4>, C)>,
    start: Option<Tensor<4>>,
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

/// A generator's turn, with everything drawn that it needs.
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
        if self.config.accumulate == 0 {
            return Err(refusal("an update of 0 micro-batches; `accumulate` must be at least 1"));
        }
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

    /// One update of the generator; its samples go on to the fake score.
    fn generator_turn(&mut self, turns: Vec<Drawn<C>>) -> Result<(Vec<Samples<C>>, Figures), Error> {
        let share = 1.0 / turns.len() as f64;
        let (config, distiller, warms_up) = (&self.config, &self.distiller, self.warms_up());
        // The warm-up is the regression alone, whatever its weight is later.
        let weight = if warms_up { 1.0 } else { config.regression.weight };
        let mut sum: Option<Gradients> = None;
        let (mut samples, mut parts) = (Vec::new(), Vec::new());
        let work = |Drawn { draw, batch, adversary }: Drawn<C>| {
            let distiller = distiller.fork();
            let distance = config.regression.distance.as_ref();
            let terms = Terms {
                matching: config.matching.filter(|_| !warms_up),
                targets: batch.pairs.map(|[_, x0]| Targets { x0, weight, distance }),
                adversary,
            };
            let loss = distiller.generator_loss(&draw, &terms, &batch.condition);
            let whole = terms.adversary.is_none() || loss.adversarial.is_some();
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
            (whole, gradients, figures, made)
        };
        let mut all_whole = true;
        side_by_side(turns, config.parallel, work, |(whole, gradients, figures, made)| {
            all_whole &= whole;
            add(&mut sum, gradients);
            parts.push(figures);
            samples.push(made);
        });
        if !all_whole {
            return Err(headless());
        }
        let mut figures = Figures::mean(parts);
        if let Some(mut gradients) = sum {
            self.reduce.reduce(&mut gradients)?;
            let rate = self.config.generator_rate.at(self.steps);
            let generator = self.distiller.generator.clone();
            let (generator, norm) = self.generator_optimizer.step(rate, generator, gradients);
            self.average = self.average.clone().update(&generator, self.steps);
            self.distiller.generator = generator;
            figures.loss("gradient_norm", norm);
            figures.number("learning_rate", rate);
            self.generator_optimizer.refused().into_iter().for_each(|n| figures.refused("gradient_norm", n));
        }
        Ok((samples, figures))
    }

    /// One update of the fake score, and of its critic.
    fn fake_turn(&mut self, samples: Vec<Samples<C>>) -> Result<Figures, Error> {
        let share = 1.0 / samples.len() as f64;
        let mut turns = Vec::with_capacity(samples.len());
        for Samples { x, condition, reals } in samples {
            let critic = reals.and_then(|(x0, condition)| {
                let reals = Reals { x0, condition, diffusion: self.critic_diffusion()? };
                Some((reals, self.critic_diffusion()?))
            });
            let times = &self.config.times;
            let diffusion = Diffusion::new(&mut self.noise, self.config.shape, times, &self.device);
            turns.push((x, condition, critic, diffusion));
        }
        let distiller = &self.distiller;
        let weight = self.config.adversarial.as_ref().map_or(0.0, |section| section.critic_weight);
        let (mut sum, mut parts): (Option<Gradients>, _) = (None, Vec::new());
        type Turned<C> = (Tensor<4>, C, Option<(Reals<C>, Diffusion)>, Diffusion);
        let work = |(x, condition, critic, diffusion): Turned<C>| {
            let distiller = distiller.fork();
            let asked = critic.is_some();
            let critic = critic.and_then(|(reals, diffusion)| {
                distiller.critic_loss(x.clone(), &diffusion, &condition, &reals)
            });
            let loss = distiller.fake_loss(x, &diffusion, &condition);
            let mut figures = Figures::new();
            figures.loss("fake", loss.clone());
            let whole = !asked || critic.is_some();
            let mut total = loss * share;
            if let Some(critic) = critic {
                total = total + critic.loss.clone() * (weight * share);
                figures.loss("critic", critic.loss);
                figures.note("logit_real", critic.real_logit);
                figures.note("logit_generated", critic.fake_logit);
            }
            (whole, Gradients::of(total, &distiller.fake), figures)
        };
        let mut all_whole = true;
        side_by_side(turns, self.config.parallel, work, |(whole, gradients, figures)| {
            all_whole &= whole;
            add(&mut sum, gradients);
            parts.push(figures);
        });
        if !all_whole {
            return Err(headless());
        }
        let mut figures = Figures::mean(parts);
        if let Some(mut gradients) = sum {
            self.reduce.reduce(&mut gradients)?;
            let rate = self.config.fake_rate.at(self.steps);
            let (fake, norm) = self.fake_optimizer.step(rate, self.distiller.fake.clone(), gradients);
            self.distiller.fake = fake;
            figures.loss("fake_gradient_norm", norm);
            self.fake_optimizer.refused().into_iter().for_each(|n| figures.refused("fake_gradient_norm", n));
        }
        Ok(figures)
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

    /// Writes networks, average and optimisers into a folder, as safetensors. With [`Self::steps`] and the position of
    /// [`Self::noise`] this is everything a resumed run needs.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let precision = Precision::Single;
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        dmd_weights::save(&self.distiller.generator.plain(), &path("generator"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(&self.distiller.fake.valid(), &path("fake"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(self.average.model(), &path("average"), &PLAIN_KEYS, precision)?;
        self.generator_optimizer.save(&path("generator_optimizer"))?;
        Ok(self.fake_optimizer.save(&path("fake_optimizer"))?)
    }

    /// Reads what [`Self::save`] wrote after `steps` steps.
    ///
    /// # Errors
    ///
    /// When a file is missing or belongs to another network.
    pub fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        let file = |name: &str| dmd_weights::read(&path(name));
        let generator = self.distiller.generator.clone();
        self.distiller.generator =
            dmd_weights::load_for_training(generator, &file("generator")?, &PLAIN_KEYS)?;
        let fake = self.distiller.fake.clone();
        self.distiller.fake = dmd_weights::load_for_training(fake, &file("fake")?, &PLAIN_KEYS)?;
        let average = self.average.model().clone();
        let average = dmd_weights::load_for_training(average, &file("average")?, &PLAIN_KEYS)?;
        self.average = Ema::from_model(average, self.config.ema_decay);
        let optimizer = |name: &str| AdamW::load(self.config.optimizer, &path(name), &self.device);
        self.generator_optimizer = optimizer("generator_optimizer")?;
        self.fake_optimizer = optimizer("fake_optimizer")?;
        self.steps = steps;
        Ok(())
    }
}

fn refusal(reason: &str) -> Error {
    Error::Training(reason.to_owned())
}

/// The adversarial term would silently be left out.
fn headless() -> Error {
    refusal("the adversarial term needs a fake score with a critic's head")
}

fn add(sum: &mut Option<Gradients>, gradients: Gradients) {
    match sum {
        Some(sum) => sum.add(gradients),
        None => *sum = Some(gradients),
    }
}
