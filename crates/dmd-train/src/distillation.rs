//! Distillation of a teacher into a generator of one or a few steps, as a [`Stage`].

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use dmd_core::{Distance, Distiller, FewStep, Guided, Noise};
use dmd_data::Dataset;
use image::RgbImage;

use crate::config::DistillConfig;
use crate::domain::{ConditionOf, Domain};
use crate::fingerprint::Fingerprint;
use crate::pairs::Pairs;
use crate::reals::RealPool;
use crate::run::{Probe, Stage};
use crate::trainer::{Adversarial, Batch, Regression, Trainer, TrainerConfig, Turn};
use crate::{Error, Figures, LearningRate, assemble, chunks};

type TrainerOf<'a, D> = Trainer<
    'a,
    <D as Domain>::Network,
    Guided<<D as Domain>::Network>,
    <D as Domain>::Network,
    <D as Domain>::Schedule,
>;

/// What a distillation reads.
#[derive(Debug)]
pub struct DistillationParts {
    /// Where captions, and real pictures for a critic, come from.
    pub dataset: Arc<dyn Dataset>,
    /// The pairs of the regression term, where the configuration has one.
    pub pairs: Option<Pairs>,
    /// What a checkpoint depends on: [`crate::config::Fingerprints::run`].
    pub made_from: Fingerprint,
}

/// Trains a generator from a configuration: a [`Trainer`] with its batches.
#[derive(Debug)]
pub struct DistillationStage<'a, D: Domain> {
    config: DistillConfig,
    made_from: Fingerprint,
    material: Material<'a, D>,
    trainer: TrainerOf<'a, D>,
}

/// What batches are made of.
#[derive(Debug)]
struct Material<'a, D: Domain> {
    domain: &'a D,
    dataset: Arc<dyn Dataset>,
    pairs: Option<Pairs>,
    /// Real samples and their captions, for the critic.
    reals: Option<RealPool>,
    batch: usize,
    device: Device,
}

impl<D: Domain> Material<'_, D> {
    /// Conditions of captions; in the generator's turns those of `paired` pairs first.
    fn batch(&self, turn: Turn, paired: usize, noise: &mut Noise) -> Result<Batch<ConditionOf<D>>, Error> {
        let mut captions = Vec::with_capacity(self.batch);
        let mut rows = None;
        if let (Some(pairs), Turn::Generator) = (&self.pairs, turn) {
            let places: Vec<usize> = (0..paired).map(|_| noise.below(pairs.len())).collect();
            captions.extend(places.iter().map(|place| pairs.caption(*place).to_owned()));
            rows = Some(pairs.get(&places, &self.device)?);
        }
        while captions.len() < self.batch {
            captions.push(self.dataset.caption(noise)?);
        }
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let mut batch = Batch::new(self.domain.condition(&prompts)?);
        if let Some((z, x0)) = rows {
            batch = batch.with_pairs(z, x0);
        }
        if let Some(reals) = &self.reals {
            let (x0, captions) = reals.draw(self.batch, noise);
            batch = batch.with_reals(x0, self.domain.condition(&captions)?);
        }
        Ok(batch)
    }
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
        parts: DistillationParts,
        device: &Device,
    ) -> Result<Self, Error> {
        let DistillationParts { dataset, pairs, made_from } = parts;
        config.check_schedule(domain.last_timestep())?;
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
            reals = Some(RealPool::encode(section.reals, dataset.as_ref(), domain, config.seed, device)?);
        }
        let teacher = domain.guided_in(config.guidance_scale, config.teacher_precision)?;
        let distiller = Distiller::new(generator, teacher, fake, domain.schedule());
        let noise = Noise::stream(config.seed, "distillation");
        let trainer = Trainer::new(trainer_config(&config, domain, device)?, distiller, noise, device);
        let batch = config.generator.batch;
        let material = Material { domain, dataset, pairs, reals, batch, device: device.clone() };
        Ok(Self { trainer, material, made_from, config })
    }

    /// The averaged generator.
    pub fn generator(&self) -> &FewStep<D::Network> {
        self.trainer.generator()
    }

    /// How the generator is called.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when the configured timesteps do not fit the teacher.
    pub fn settings(&self) -> Result<assemble::OneStepSettings, Error> {
        let domain = self.material.domain;
        let timesteps = self.config.timesteps(domain.last_timestep())?;
        Ok(assemble::OneStepSettings {
            timestep: timesteps[0],
            noise_scale: domain.noise_scale(),
            guidance_scale: self.config.guidance_scale,
            timesteps: (timesteps.len() > 1).then_some(timesteps),
        })
    }
}

/// The trainer of a configuration. Optimisers are DMD's and DMD2's: AdamW, decay 0.01, clip 10 (appendices).
fn trainer_config<'a, D: Domain>(
    config: &DistillConfig,
    domain: &'a D,
    device: &Device,
) -> Result<TrainerConfig<'a>, Error> {
    let (generator, fake, steps) = (&config.generator, &config.fake, config.pace.steps);
    let (matching, last) = (&config.matching, domain.last_timestep());
    let [channels, height, width] = domain.shape();
    let mut regression = Regression::default();
    if let Some(section) = &config.regression {
        let distance: Box<dyn Distance + 'a> = section.distance(domain, device)?;
        regression = Regression { weight: section.weight, distance, warmup_steps: section.warmup_steps };
    }
    // With regression to the end, nobody asks the fake score.
    let matches = regression.warmup_steps < steps;
    let adversarial = config.adversarial.as_ref().map(|section| Adversarial {
        generator_weight: section.generator_weight,
        critic_weight: section.critic_weight,
        times: domain.times(0..=section.last_timestep.unwrap_or(last)),
    });
    Ok(TrainerConfig {
        accumulate: generator.accumulate,
        parallel: generator.parallel,
        generator_rate: LearningRate::cosine(generator.learning_rate, generator.warmup_steps, steps),
        fake_rate: LearningRate::constant(fake.learning_rate, generator.warmup_steps),
        fake_updates: if matches { fake.steps_per_generator_step } else { 0 },
        ema_decay: generator.ema_decay,
        matching: Some(matching.weighting),
        regression,
        adversarial,
        ..TrainerConfig::new(
            [generator.batch, channels, height, width],
            domain.times(matching.first_timestep..=matching.last_timestep),
            domain.times(0..=last),
        )
    })
}

impl<D: Domain> Stage for DistillationStage<'_, D> {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn made_from(&self) -> Fingerprint {
        self.made_from.clone()
    }

    fn step(&mut self) -> Result<Figures, Error> {
        let warm_up = self.config.regression.as_ref().map_or(0, |section| section.warmup_steps);
        let batch = self.config.generator.batch;
        // The warm-up is on pairs alone; later half of a batch is.
        let paired = if self.trainer.steps() < warm_up { batch } else { (batch / 2).max(1) };
        let material = &self.material;
        self.trainer.step(|turn, noise| material.batch(turn, paired, noise))
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainer.save(folder)
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        self.trainer.load(folder, steps)
    }

    fn noise(&mut self) -> &mut Noise {
        self.trainer.noise()
    }

    /// The generator's pictures of the data set's prompts, and how many of 96 are right where it can judge them.
    fn probe(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Probe>, Error> {
        const COUNT: usize = 96;
        /// What fits a grid. Only pictures that are judged are drawn beyond it.
        const SHOWN: usize = 32;
        let dataset = &self.material.dataset;
        let mut noise = Noise::stream(0, "probe");
        let captions = dataset.prompts(COUNT, &mut noise)?;
        let Material { domain, device, batch, .. } = &self.material;
        let [channels, height, width] = domain.shape();
        let generator = self.trainer.generator();
        // All noise first, one draw for each of the generator's steps: the pictures do not depend on the chunks.
        let mut draw = || noise.normal([COUNT, channels, height, width], device);
        let drawn: Vec<_> = generator.levels().iter().map(|_| draw()).collect();
        let mut pictures: Vec<RgbImage> = Vec::new();
        for range in chunks::ranges(COUNT, chunks::of_samples(domain.shape(), *batch)) {
            if stopped() {
                return Ok(None);
            }
            let judges = || pictures.first().is_none_or(|first| dataset.shows(&captions[0], first).is_some());
            if pictures.len() >= SHOWN && !judges() {
                break;
            }
            let prompts: Vec<&str> = captions[range.clone()].iter().map(String::as_str).collect();
            let condition = domain.condition(&prompts)?;
            let mut step = 0;
            let mut next = || {
                step += 1;
                drawn[step - 1].clone().narrow(0, range.start, range.len())
            };
            let z = next();
            let x0 = generator.generate(z, &condition, &mut next);
            let Some(decoded) = chunks::decode(&|x0| domain.decode(x0), x0, stopped) else { return Ok(None) };
            pictures.extend(decoded);
        }
        let accuracy = dataset.accuracy(&captions, &pictures);
        let figures = accuracy.map(|share| ("probe_accuracy", share)).into_iter().collect();
        pictures.truncate(SHOWN);
        Ok(Some(Probe { pictures, figures }))
    }
}
