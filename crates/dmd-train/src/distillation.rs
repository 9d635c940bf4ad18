//! Distillation of a teacher into a generator of one or a few steps, as a [`Stage`].

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use dmd_core::{
    Adversary, Diffusion, Distance, Distiller, Draw, FewStep, Guided, Noise, Reals, SquaredError, Targets,
    Terms,
};
use dmd_data::Dataset;
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_weights::Precision;

use crate::checkpoint::RunState;
use crate::config::DistillConfig;
use crate::domain::{ConditionOf, Domain};
use crate::ema::Ema;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::pairs::Pairs;
use crate::parallel::{both, side_by_side};
use crate::run::{Probe, Stage};
use crate::trainee::PLAIN_KEYS;
use crate::{Error, LearningRate, assemble};

type Parts<D> = Distiller<
    <D as Domain>::Network,
    Guided<<D as Domain>::Network>,
    <D as Domain>::Network,
    <D as Domain>::Schedule,
>;

/// Trains a generator.
#[derive(Debug)]
pub struct DistillationStage<'a, D: Domain> {
    config: DistillConfig,
    dataset: Arc<dyn Dataset>,
    domain: &'a D,
    pairs: Option<Pairs>,
    /// Real samples and their captions, for the critic.
    reals: Option<RealPool>,
    distance: Box<dyn Distance + 'a>,
    distiller: Parts<D>,
    average: Ema<FewStep<D::Network>>,
    generator_optimizer: AdamW,
    fake_optimizer: AdamW,
    noise: Noise,
    device: Device,
}

/// DMD's and DMD2's: AdamW, decay 0.01, clip 10 (appendices).
fn optimizer_config() -> AdamWConfig {
    AdamWConfig::default()
}

/// Real pictures as samples, made once.
#[derive(Debug)]
struct RealPool {
    samples: Vec<Tensor<4>>,
    captions: Vec<String>,
}

impl RealPool {
    fn draw<D: Domain>(
        count: usize,
        dataset: &dyn Dataset,
        domain: &D,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut noise = Noise::stream(seed, "reals");
        let mut pool = Self { samples: Vec::new(), captions: Vec::new() };
        while pool.captions.len() < count {
            let examples = (0..64.min(count - pool.captions.len()))
                .map(|_| dataset.draw(&mut noise))
                .collect::<Result<Vec<_>, _>>()?;
            let (images, captions): (Vec<_>, Vec<_>) =
                examples.into_iter().map(|example| (example.image, example.caption)).unzip();
            let samples = domain.encode(from_rgb8(&images, device));
            let found: [usize; 3] = [samples.dims()[1], samples.dims()[2], samples.dims()[3]];
            if found != domain.shape() {
                return Err(Error::Option {
                    key: "adversarial",
                    value: format!("real latents of {found:?}"),
                    must: "those of the teacher: pictures of the size it was trained on",
                });
            }
            pool.samples.extend((0..images.len()).map(|row| samples.clone().narrow(0, row, 1)));
            pool.captions.extend(captions);
        }
        Ok(pool)
    }
}

/// A turn's noise, captions' condition and targets' samples.
struct Turn<D: Domain> {
    draw: Draw,
    targets: Option<Tensor<4>>,
    condition: ConditionOf<D>,
}

impl<'a, D: Domain> DistillationStage<'a, D> {
    /// A generator and a fake score that start as copies of the teacher; `device` is the plain
    /// device.
    ///
    /// # Errors
    ///
    /// When the configuration does not fit the teacher, or a file it names cannot be used.
    pub fn new(
        config: DistillConfig,
        domain: &'a D,
        dataset: Arc<dyn Dataset>,
        pairs: Option<Pairs>,
        device: &Device,
    ) -> Result<Self, Error> {
        config.teacher_precision.check(device)?;
        let trainable = |network: D::Network| match config.generator.recompute {
            // Activations of element-wise operations are computed again on the way back.
            true => network.train().fork(&device.clone().autodiff().gradient_checkpointing()),
            false => network.train(),
        };
        let mut start = trainable(domain.network().clone());
        if let Some(path) = &config.generator.start {
            start = domain.with_weights(start, path)?;
        }
        let levels = config.timesteps(domain.last_timestep())?.iter().map(|t| domain.level(*t)).collect();
        let generator = FewStep::new(start, levels).with_noise_scale(domain.noise_scale());
        let mut fake = trainable(domain.network().clone());
        if let Some(loss) = config.fake.loss {
            fake = domain.with_loss(fake, loss)?;
        }
        let mut reals = None;
        if let Some(section) = &config.adversarial {
            device.seed(config.seed);
            fake = domain.with_critic(fake, &device.clone().autodiff())?;
            reals = Some(RealPool::draw(section.reals, dataset.as_ref(), domain, config.seed, device)?);
        }
        let distance: Box<dyn Distance + 'a> = match &config.regression {
            Some(section) => section.distance(domain, device)?,
            None => Box::new(SquaredError),
        };
        Ok(Self {
            average: Ema::new(&generator, config.generator.ema_decay),
            distiller: Distiller::new(
                generator,
                domain.guided_in(config.guidance_scale, config.teacher_precision)?,
                fake,
                domain.schedule(),
            )
            .with_both(both),
            domain,
            distance,
            generator_optimizer: AdamW::new(optimizer_config()),
            fake_optimizer: AdamW::new(optimizer_config()),
            noise: Noise::stream(config.seed, "distillation"),
            device: device.clone(),
            dataset,
            pairs,
            reals,
            config,
        })
    }

    /// The averaged generator.
    pub fn generator(&self) -> &FewStep<D::Network> {
        self.average.model()
    }

    /// How the generator is called.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when the configured timesteps do not fit the teacher.
    pub fn settings(&self) -> Result<assemble::OneStepSettings, Error> {
        let timesteps = self.config.timesteps(self.domain.last_timestep())?;
        Ok(assemble::OneStepSettings {
            timestep: timesteps[0],
            noise_scale: self.domain.noise_scale(),
            guidance_scale: self.config.guidance_scale,
            timesteps: (timesteps.len() > 1).then_some(timesteps),
        })
    }

    fn shape(&self, batch: usize) -> [usize; 4] {
        let [channels, height, width] = self.domain.shape();
        [batch, channels, height, width]
    }

    /// One turn's noise, captions and targets: paired rows first, then fresh ones; for a generator of several
    /// steps which one it is, the same for the whole batch, and its input by backward simulation.
    fn turn(&mut self, paired_only: bool) -> Result<Turn<D>, Error> {
        let batch = self.config.generator.batch;
        let shape = self.shape(batch);
        let matching = &self.config.matching;
        let times = self.domain.times(matching.first_timestep..=matching.last_timestep);
        let mut draw = Draw::new(&mut self.noise, shape, &times, &self.device);
        let mut captions = Vec::with_capacity(batch);
        let mut targets = None;
        if let (Some(pairs), Some(_)) = (&self.pairs, &self.config.regression) {
            let count = if paired_only { batch } else { (batch / 2).max(1) };
            let places: Vec<usize> = (0..count).map(|_| self.noise.below(pairs.len())).collect();
            captions.extend(places.iter().map(|place| pairs.caption(*place).to_owned()));
            let (z, x0) = pairs.get(&places, &self.device);
            draw.z = match count < batch {
                true => Tensor::cat(vec![z, draw.z.narrow(0, count, batch - count)], 0),
                false => z,
            };
            targets = Some(x0);
        }
        while captions.len() < batch {
            captions.push(self.dataset.caption(&mut self.noise)?);
        }
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let condition = self.domain.condition(&prompts)?;
        let steps = self.distiller.generator.levels().len();
        let step = if steps > 1 { self.noise.below(steps) } else { 0 };
        if step > 0 {
            let (noise, device) = (&mut self.noise, &self.device);
            let z = noise.normal(shape, device);
            let generator = &self.distiller.generator;
            let x0 = generator.simulate(step, z, &condition, &mut || noise.normal(shape, device));
            draw.later = Some((step, x0));
        }
        Ok(Turn { draw, targets, condition })
    }

    /// Noise and times of one diffusion for the fake score, over the whole schedule.
    fn diffusion(&mut self, shape: [usize; 4]) -> Diffusion {
        self.diffusion_up_to(self.domain.last_timestep(), shape)
    }

    /// Noise and times of one diffusion for the critic.
    fn critic_diffusion(&mut self, shape: [usize; 4]) -> Diffusion {
        let configured = self.config.adversarial.as_ref().and_then(|section| section.last_timestep);
        let last = self.domain.last_timestep();
        self.diffusion_up_to(configured.map_or(last, |timestep| timestep.min(last)), shape)
    }

    fn diffusion_up_to(&mut self, timestep: usize, shape: [usize; 4]) -> Diffusion {
        let times = self.domain.times(0..=timestep);
        Diffusion::new(&mut self.noise, shape, &times, &self.device)
    }

    /// Real samples for the critic, diffused.
    fn real(&mut self, count: usize) -> Result<Option<Reals<ConditionOf<D>>>, Error> {
        let Some(pool) = &self.reals else {
            return Ok(None);
        };
        let places: Vec<usize> = (0..count).map(|_| self.noise.below(pool.captions.len())).collect();
        let x0 = Tensor::cat(places.iter().map(|place| pool.samples[*place].clone()).collect(), 0);
        let captions: Vec<&str> = places.iter().map(|place| pool.captions[*place].as_str()).collect();
        let condition = self.domain.condition(&captions)?;
        let diffusion = self.critic_diffusion(self.shape(count));
        Ok(Some(Reals { x0, condition, diffusion }))
    }

    /// One update of the fake score on micro-batches of samples; the figures of the last.
    fn fake_turn(
        &mut self,
        step: usize,
        batches: Vec<(Tensor<4>, ConditionOf<D>)>,
    ) -> Result<FakeFigures, Error> {
        let share = 1.0 / batches.len() as f64;
        let mut turns = Vec::with_capacity(batches.len());
        for (x, condition) in batches {
            let reals = self.real(x.dims()[0])?;
            let critic = reals.map(|reals| (self.critic_diffusion(x.dims()), reals));
            let diffusion = self.diffusion(x.dims());
            turns.push((x, condition, critic, diffusion));
        }
        let distiller = &self.distiller;
        let weight = self.config.adversarial.as_ref().map_or(0.0, |section| section.critic_weight);
        let parallel = self.config.generator.parallel;
        let results = side_by_side(turns, parallel, |(x, condition, critic, diffusion)| {
            let own = (parallel > 1).then(|| distiller.fork());
            let distiller = own.as_ref().unwrap_or(distiller);
            let critic = critic.and_then(|(diffusion, reals)| {
                distiller.critic_loss(x.clone(), &diffusion, &condition, &reals)
            });
            let loss = distiller.fake_loss(x, &diffusion, &condition);
            let mut figures = FakeFigures { loss: number(loss.clone()), ..FakeFigures::default() };
            let mut total = loss * share;
            if let Some(critic) = critic {
                total = total + critic.loss.clone() * (weight * share);
                figures.critic =
                    Some([number(critic.loss), number(critic.real_logit), number(critic.fake_logit)]);
            }
            (GradientsParams::from_module(&mut total.backward(), &distiller.fake), figures)
        });
        let mut accumulated = GradientsAccumulator::new();
        let mut figures = FakeFigures::default();
        for (grads, found) in results {
            accumulated.accumulate(&self.distiller.fake, grads);
            figures = found;
        }
        let section = &self.config.fake;
        let rate = LearningRate::constant(section.learning_rate, self.config.generator.warmup_steps);
        let fake = self.distiller.fake.clone();
        let (fake, norm) = self.fake_optimizer.step(rate.at(step), fake, accumulated.grads());
        self.distiller.fake = fake;
        figures.gradient_norm = norm;
        Ok(figures)
    }
}

/// What a fake score's turn reports.
#[derive(Debug, Clone, Copy, Default)]
struct FakeFigures {
    loss: f64,
    gradient_norm: f64,
    /// The critic's loss and its mean logits of real and of generated samples.
    critic: Option<[f64; 3]>,
}

fn number(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.without_autodiff().into_scalar::<f32>())
}

impl<D: Domain> Stage for DistillationStage<'_, D> {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let warm_up = self.config.regression.as_ref().map_or(0, |section| section.warmup_steps);
        let micro_batches = self.config.generator.accumulate;
        let share = 1.0 / micro_batches as f64;
        let mut turns = Vec::with_capacity(micro_batches);
        for _ in 0..micro_batches {
            let turn = self.turn(step < warm_up)?;
            let diffusion = match &self.config.adversarial {
                Some(section) if step >= warm_up => {
                    let weight = section.generator_weight;
                    Some((self.critic_diffusion(turn.draw.z.dims()), weight))
                }
                _ => None,
            };
            turns.push((turn, diffusion));
        }
        let (distiller, distance) = (&self.distiller, self.distance.as_ref());
        let weight = self.config.regression.as_ref().map_or(0.0, |section| section.weight);
        let weighting = self.config.matching.weighting;
        let parallel = self.config.generator.parallel;
        let results = side_by_side(turns, parallel, |(turn, diffusion)| {
            let own = (parallel > 1).then(|| distiller.fork());
            let distiller = own.as_ref().unwrap_or(distiller);
            let Turn::<D> { draw, targets, condition } = turn;
            // The warm-up is the regression alone, whatever its weight is later.
            let weight = if step < warm_up { 1.0 } else { weight };
            let terms = Terms {
                matching: (step >= warm_up).then_some(weighting),
                targets: targets.map(|x0| Targets { x0, weight, distance }),
                adversary: diffusion.map(|(diffusion, weight)| Adversary { diffusion, weight }),
            };
            let loss = distiller.generator_loss(&draw, &terms, &condition);
            let mut grads = (loss.total * share).backward();
            let grads = GradientsParams::from_module(&mut grads, &distiller.generator);
            let mean = number(loss.x.clone().mean());
            let deviation = number((loss.x.clone() - mean).square().mean()).sqrt();
            let mut losses = vec![("sample_mean", mean), ("sample_deviation", deviation)];
            losses.extend(loss.matching.map(|matching| ("matching", number(matching))));
            losses.extend(loss.regression.map(|regression| ("regression", number(regression))));
            losses.extend(loss.adversarial.map(|adversarial| ("adversarial", number(adversarial))));
            (grads, losses, (loss.x, condition))
        });
        let mut accumulated = GradientsAccumulator::new();
        let mut batches = Vec::with_capacity(micro_batches);
        let mut losses = Vec::new();
        for (grads, found, batch) in results {
            accumulated.accumulate(&self.distiller.generator, grads);
            losses = found;
            batches.push(batch);
        }
        let section = &self.config.generator;
        let rate = LearningRate::cosine(section.learning_rate, section.warmup_steps, self.config.pace.steps)
            .at(step);
        let generator = self.distiller.generator.clone();
        let (generator, norm) = self.generator_optimizer.step(rate, generator, accumulated.grads());
        self.average = self.average.clone().update(&generator, step);
        self.distiller.generator = generator;

        losses.extend([("gradient_norm", norm), ("learning_rate", rate)]);
        if warm_up >= self.config.pace.steps {
            return Ok(losses); // regression to the end: nobody asks the fake score
        }
        // The fake score sees the very samples of this turn first, then fresh ones.
        let mut fake = self.fake_turn(step, batches)?;
        for _ in 1..self.config.fake.steps_per_generator_step {
            let mut batches = Vec::with_capacity(micro_batches);
            for _ in 0..micro_batches {
                let Turn { draw, condition, .. } = self.turn(false)?;
                batches.push((self.distiller.samples(&draw, &condition), condition));
            }
            fake = self.fake_turn(step, batches)?;
        }
        losses.extend([("fake", fake.loss), ("fake_gradient_norm", fake.gradient_norm)]);
        if let Some([loss, real, generated]) = fake.critic {
            losses.extend([("critic", loss), ("logit_real", real), ("logit_generated", generated)]);
        }
        Ok(losses)
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        let precision = Precision::Single;
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        dmd_weights::save(&self.distiller.generator.plain(), &path("generator"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(&self.distiller.fake.valid(), &path("fake"), &PLAIN_KEYS, precision)?;
        dmd_weights::save(self.average.model(), &path("average"), &PLAIN_KEYS, precision)?;
        self.generator_optimizer.save(&path("generator_optimizer"))?;
        Ok(self.fake_optimizer.save(&path("fake_optimizer"))?)
    }

    fn load(&mut self, folder: &Path, state: &RunState) -> Result<(), Error> {
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        let file = |name: &str| dmd_weights::read(&path(name));
        let generator = self.distiller.generator.clone();
        self.distiller.generator =
            dmd_weights::load_for_training(generator, &file("generator")?, &PLAIN_KEYS)?;
        let fake = self.distiller.fake.clone();
        self.distiller.fake = dmd_weights::load_for_training(fake, &file("fake")?, &PLAIN_KEYS)?;
        let average = self.average.model().clone();
        let average = dmd_weights::load_for_training(average, &file("average")?, &PLAIN_KEYS)?;
        self.average = Ema::from_model(average, self.config.generator.ema_decay);
        self.generator_optimizer =
            AdamW::load(optimizer_config(), &path("generator_optimizer"), &self.device)?;
        self.fake_optimizer = AdamW::load(optimizer_config(), &path("fake_optimizer"), &self.device)?;
        state.seek(&mut self.noise, folder)
    }

    fn state(&self, step: usize, seconds: f64) -> RunState {
        RunState::new(step, seconds, &self.noise)
    }

    /// The generator's pictures of held-out captions, and how many of 96 are right.
    fn probe(&self) -> Result<Probe, Error> {
        let mut noise = Noise::stream(0, "probe");
        let count = 96;
        let captions = self.dataset.prompts(count, &mut noise)?;
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let shape = self.shape(count);
        let z = noise.normal(shape, &self.device);
        let condition = self.domain.condition(&prompts)?;
        let x0 = self.average.model().generate(z, &condition, &mut || noise.normal(shape, &self.device));
        let mut pictures = to_rgb8(self.domain.decode(x0));
        let accuracy = self.dataset.accuracy(&captions, &pictures);
        let figures = accuracy.map(|share| ("probe_accuracy", share)).into_iter().collect();
        pictures.truncate(32);
        Ok(Probe { pictures, figures })
    }
}
