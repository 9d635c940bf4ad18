//! Distillation of a teacher into a generator of one or a few steps, as a [`Stage`].

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use dmd_core::objective::{DecoupledGuidance, FDivergence, ScoreIdentity};
use dmd_core::{Distance, Distiller, FewStep, Guided, Noise, Objective, TimeDistribution, TimeSampler};
use dmd_data::Dataset;
use dmd_model::{ConditionOf, Conditioner, Family, Model, Noising, Recipe, check_dtype};
use dmd_weights::Precision;
use image::RgbImage;

use crate::cache::Cache;
use crate::captions::Captions;
use crate::config::{DistillConfig, ObjectiveSection, require};
use crate::evaluation::Evaluation;
use crate::fingerprint::Fingerprint;
use crate::pairs::Pairs;
use crate::reals::RealPool;
use crate::run::{Probe, Stage};
use crate::trained::{NetworkOf, Start, Trained, frozen};
use crate::trainer::{Adversarial, Batch, Regression, Trainer, TrainerConfig, Turn};
use crate::{Collective, Error, Figures, agree, chunks};

type TrainerOf<'a, F> = Trainer<'a, NetworkOf<F>, Guided<NetworkOf<F>>, NetworkOf<F>, Noising>;

/// The file of a checkpoint with the number of real samples that were drawn.
const REALS: &str = "reals.json";

/// What a distillation reads.
#[derive(Debug)]
pub struct DistillationParts<N> {
    /// The teacher's network. Taken out of the model ([`Model::take_teacher`]), it is in memory once, in
    /// [`DistillConfig::teacher_precision`].
    pub teacher: N,
    /// Where captions, and real pictures for a critic, come from.
    pub dataset: Arc<dyn Dataset>,
    /// The pairs of the regression term, where the configuration has one.
    pub pairs: Option<Pairs>,
    /// Latents and features of captions that were computed before, where the configuration has a cache.
    pub cache: Option<Cache>,
    /// What a checkpoint depends on: [`crate::config::Fingerprints::run`].
    pub made_from: Fingerprint,
}

/// Trains a generator from a configuration: a [`Trainer`] with its batches.
#[derive(Debug)]
pub struct DistillationStage<'a, F: Family> {
    config: DistillConfig,
    made_from: Fingerprint,
    material: Material<'a, F>,
    trainer: TrainerOf<'a, F>,
    recipe: Recipe,
    /// On the first rank, where the configuration asks for it.
    evaluation: Option<Evaluation>,
}

/// What batches are made of.
#[derive(Debug)]
struct Material<'a, F: Family> {
    model: &'a Model<F>,
    dataset: Arc<dyn Dataset>,
    pairs: Option<Pairs>,
    /// Real samples and their captions, for the critic.
    reals: Option<RealPool>,
    captions: Captions,
    batch: usize,
    device: Device,
}

/// What a batch is made of, drawn and not read yet.
struct Places {
    captions: Vec<String>,
    pairs: Option<Vec<usize>>,
    reals: Option<Vec<usize>>,
}

impl<F: Family> Material<'_, F> {
    /// Draws captions, in the generator's turns those of `paired` pairs first, and real samples.
    fn draw(&mut self, turn: Turn, paired: usize, noise: &mut Noise) -> Result<Places, Error> {
        let mut places = Places { captions: Vec::with_capacity(self.batch), pairs: None, reals: None };
        if let (Some(pairs), Turn::Generator) = (&self.pairs, turn) {
            let drawn: Vec<usize> = (0..paired).map(|_| noise.below(pairs.len())).collect();
            places.captions.extend(drawn.iter().map(|place| pairs.caption(*place).to_owned()));
            places.pairs = Some(drawn);
        }
        while places.captions.len() < self.batch {
            places.captions.push(self.dataset.caption(noise)?);
        }
        let batch = self.batch;
        places.reals = self.reals.as_mut().map(|reals| reals.draw(batch));
        Ok(places)
    }

    /// The batch that was drawn, with conditions of its captions.
    fn batch(&mut self, places: &Places) -> Result<Batch<ConditionOf<F>>, Error> {
        let prompts: Vec<&str> = places.captions.iter().map(String::as_str).collect();
        let mut batch = Batch::new(self.captions.conditions(self.model, &prompts)?);
        if let (Some(pairs), Some(places)) = (&self.pairs, &places.pairs) {
            let (z, x0) = pairs.get(places, &self.device)?;
            batch = batch.with_pairs(z, x0);
        }
        if let (Some(reals), Some(places)) = (&self.reals, &places.reals) {
            let (x0, captions) = reals.get(places, &self.device)?;
            batch = batch.with_reals(x0, self.captions.conditions(self.model, &captions)?);
        }
        Ok(batch)
    }
}

impl<'a, F: Family> DistillationStage<'a, F> {
    /// A generator and a fake score that start as copies of the teacher; `device` is the plain
    /// device.
    ///
    /// # Errors
    ///
    /// When the configuration does not fit the teacher, or a file it names cannot be used.
    pub fn new(
        config: DistillConfig,
        model: &'a Model<F>,
        parts: DistillationParts<NetworkOf<F>>,
        device: &Device,
    ) -> Result<Self, Error> {
        let DistillationParts { teacher, dataset, pairs, cache, made_from } = parts;
        let Cache { latents, text } = cache.unwrap_or(Cache { latents: None, text: None });
        let precision = config.teacher_precision.dtype();
        check_dtype(device, precision)?;
        check_dtype(device, config.precision.dtype())?;
        let start = frozen(&config, teacher.clone());
        // One copy serves all where the network under low-rank updates has the teacher's type.
        let one = config.lora.is_some() && config.precision.dtype() == precision;
        let teacher = if one { start.clone() } else { teacher.in_precision(precision) };
        let Start { generator, fake, recipe } = Start::new(&config, model, &start, device)?;
        drop(start);
        let mut reals = None;
        if let Some(section) = &config.adversarial {
            let (count, seed) = (section.reals, config.seed);
            reals = Some(RealPool::new(count, dataset.as_ref(), model, latents, seed, device)?);
        }
        let mut evaluation = None;
        if let Some(section) = &config.evaluation {
            evaluation = Some(Evaluation::new(section, &dataset, model.picture_size(), device)?);
        }
        let teacher = Guided::new(teacher, model.conditioner.unconditional()?, config.guidance_scale);
        let distiller = Distiller::new(generator, teacher, fake, model.noising.clone());
        let noise = Noise::stream(config.seed, "distillation");
        let trainer = Trainer::new(trainer_config(&config, model, device)?, distiller, noise, device);
        let batch = config.generator.batch;
        let captions = Captions::new(dataset.as_ref(), text, device);
        let material = Material { model, dataset, pairs, reals, captions, batch, device: device.clone() };
        Ok(Self { trainer, material, made_from, recipe, evaluation, config })
    }

    /// The same stage as one of several ranks, which all call this; see [`Trainer::with_ranks`].
    ///
    /// # Errors
    ///
    /// [`Error::Rank`] on every rank when one has other settings; otherwise what [`Trainer::with_ranks`] returns.
    pub fn with_ranks(self, ranks: &'a dyn Collective) -> Result<Self, Error> {
        agree(ranks, self.made_from.text().as_bytes(), "was started with other settings than rank 0")?;
        let evaluation = self.evaluation.filter(|_| ranks.rank() == 0);
        Ok(Self { trainer: self.trainer.with_ranks(ranks)?, evaluation, ..self })
    }

    /// What was trained so far, to be written.
    pub fn trained(&self) -> Trained<'_, F> {
        Trained {
            config: &self.config,
            model: self.material.model,
            generator: self.trainer.generator().denoiser,
            fake: self.trainer.distiller().fake.valid(),
            recipe: self.recipe.clone(),
        }
    }

    /// Writes the averaged generator into a folder: its network, with low-rank updates merged, and how it is called.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        self.trained().write_generator(folder, precision)
    }

    /// A generator's pictures of a few captions; `next` gives the noise of each of its steps, one row for each
    /// caption. `None` when `stopped` said so before they were done.
    fn pictures(
        &self,
        generator: &FewStep<NetworkOf<F>>,
        captions: &[String],
        next: &mut dyn FnMut() -> Tensor<4>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<RgbImage>>, Error> {
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let model = self.material.model;
        let condition = model.conditioner.remembered(&prompts)?;
        let z = next();
        let x0 = generator.generate(z, &condition, next);
        Ok(chunks::decode(&|x0| model.codec.decode(x0), x0, stopped))
    }
}

/// The trainer of a configuration.
fn trainer_config<'a, F: Family>(
    config: &DistillConfig,
    model: &'a Model<F>,
    device: &Device,
) -> Result<TrainerConfig<'a>, Error> {
    let (generator, fake, steps) = (&config.generator, &config.fake, config.pace.steps);
    let (matching, last) = (&config.matching, model.noising.last_timestep());
    let [channels, height, width] = model.shape();
    let mut regression = Regression::default();
    if let Some(section) = &config.regression {
        let distance: Box<dyn Distance + 'a> = section.distance(model, device)?;
        regression = Regression { weight: section.weight, distance, warmup_steps: section.warmup_steps };
    }
    // With regression to the end, nobody asks the fake score.
    let matches = regression.warmup_steps < steps;
    let adversarial = config.adversarial.as_ref().map(|section| Adversarial {
        generator_weight: section.generator_weight,
        critic_weight: section.critic_weight,
        times: model.noising.times(0..=section.last_timestep.unwrap_or(last)),
    });
    Ok(TrainerConfig {
        accumulate: generator.accumulate,
        parallel: generator.parallel,
        generator_rate: generator.schedule.rate(generator.learning_rate, generator.warmup_steps, steps),
        fake_rate: fake.schedule.rate(fake.learning_rate, generator.warmup_steps, steps),
        optimizer: config.optimizer,
        fake_updates: if matches { fake.steps_per_generator_step } else { 0 },
        alignment: fake.alignment,
        ema_decay: generator.ema_decay,
        ema_place: host(generator.ema_on_host)?,
        matching: Some(objective(config, model)?),
        regression,
        adversarial,
        ..TrainerConfig::new(
            [generator.batch, channels, height, width],
            times(model, "matching.times", matching.times, matching.first_timestep..=matching.last_timestep)?,
            times(model, "fake.times", fake.times, 0..=last)?,
        )
    })
}

/// What `matching.objective` says.
fn objective<F: Family>(config: &DistillConfig, model: &Model<F>) -> Result<Box<dyn Objective>, Error> {
    let weighting = config.matching.weighting;
    Ok(match config.matching.objective {
        ObjectiveSection::DistributionMatching => Box::new(weighting),
        ObjectiveSection::FDivergence(divergence) => {
            Box::new(FDivergence { weighting, ..FDivergence::new(divergence) })
        }
        ObjectiveSection::DecoupledGuidance { first_timestep, last_timestep } => {
            let uniform = TimeDistribution::default();
            let times = times(model, "matching.objective", uniform, first_timestep..=last_timestep)?;
            let floor = weighting.floor().unwrap_or(0.0);
            Box::new(DecoupledGuidance { scale: config.guidance_scale, floor, times })
        }
        ObjectiveSection::ScoreIdentity { alpha } => Box::new(ScoreIdentity::new(alpha)),
    })
}

/// The host's device for the average, where it is wanted there.
fn host(wanted: bool) -> Result<Option<Device>, Error> {
    let host = dmd_kernels::device::host().filter(|_| wanted);
    require(
        wanted == host.is_some(),
        "generator.ema_on_host",
        wanted,
        "false in a build without the features flex and ndarray",
    )?;
    Ok(host)
}

/// Draws times among timesteps of a model, as an option says.
fn times<F: Family>(
    model: &Model<F>,
    key: &'static str,
    distribution: TimeDistribution,
    timesteps: RangeInclusive<usize>,
) -> Result<TimeSampler, Error> {
    model.noising.times_by(timesteps, distribution).ok_or_else(|| Error::Option {
        key,
        value: format!("{distribution:?}"),
        must: "a distribution that reaches the timesteps among which it draws",
    })
}

impl<F: Family> Stage for DistillationStage<'_, F> {
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
        let paired = if self.trainer.steps() < warm_up { batch } else { batch / 2 };
        let material = &RefCell::new(&mut self.material);
        self.trainer.step(|turn, noise| {
            let places = material.borrow_mut().draw(turn, paired, noise)?;
            Ok(move || material.borrow_mut().batch(&places))
        })
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainer.save(folder)?;
        if let Some(reals) = &self.material.reals {
            dmd_weights::write_json(&folder.join(REALS), &reals.drawn())?;
        }
        Ok(())
    }

    fn load(&mut self, folder: &Path, steps: usize) -> Result<(), Error> {
        if let Some(reals) = &mut self.material.reals {
            reals.seek(dmd_weights::read_json(&folder.join(REALS))?);
        }
        self.trainer.load(folder, steps)
    }

    fn ranks(&self) -> &dyn Collective {
        self.trainer.ranks()
    }

    fn samples_per_step(&self) -> Option<usize> {
        Some(self.config.generator.batch * self.config.generator.accumulate)
    }

    fn device(&self) -> Option<&Device> {
        Some(&self.material.device)
    }

    fn evaluate_every(&self) -> Option<usize> {
        self.config.evaluation.as_ref().map(|section| section.every)
    }

    /// The noise of a picture follows that of the picture before, so that chunks of any size give the same pictures.
    fn evaluate(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<(&'static str, f64)>>, Error> {
        let Some(evaluation) = &self.evaluation else { return Ok(Some(Vec::new())) };
        let Material { model, device, batch, .. } = &self.material;
        let [channels, height, width] = model.shape();
        let generator = self.trainer.generator();
        let steps = generator.levels().len();
        let draw = |captions: &[String], noise: &mut Noise| {
            let mut drawn = vec![Vec::with_capacity(captions.len()); steps];
            for _ in captions {
                drawn
                    .iter_mut()
                    .for_each(|step| step.push(noise.normal([1, channels, height, width], device)));
            }
            let mut drawn = drawn.into_iter();
            let mut next = || Tensor::cat(drawn.next().unwrap_or_default(), 0);
            self.pictures(&generator, captions, &mut next, stopped)
        };
        evaluation.measure(chunks::of_samples(model.shape(), *batch), draw, stopped)
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
        let Material { model, device, batch, .. } = &self.material;
        let [channels, height, width] = model.shape();
        let generator = self.trainer.generator();
        // All noise first, one draw for each of the generator's steps: the pictures do not depend on the chunks.
        let mut draw = || noise.normal([COUNT, channels, height, width], device);
        let drawn: Vec<_> = generator.levels().iter().map(|_| draw()).collect();
        let mut pictures: Vec<RgbImage> = Vec::new();
        for range in chunks::ranges(captions.len().min(COUNT), chunks::of_samples(model.shape(), *batch)) {
            if stopped() {
                return Ok(None);
            }
            let judges = || pictures.first().is_none_or(|first| dataset.shows(&captions[0], first).is_some());
            if pictures.len() >= SHOWN && !judges() {
                break;
            }
            let mut steps = drawn.iter();
            let mut next = || {
                let step = steps.next().unwrap_or(&drawn[0]); // the generator has a step for each
                step.clone().narrow(0, range.start, range.len())
            };
            let Some(decoded) = self.pictures(&generator, &captions[range.clone()], &mut next, stopped)?
            else {
                return Ok(None);
            };
            pictures.extend(decoded);
        }
        let accuracy = dataset.accuracy(&captions, &pictures);
        let figures = accuracy.map(|share| ("probe_accuracy", share)).into_iter().collect();
        pictures.truncate(SHOWN);
        Ok(Some(Probe { pictures, figures }))
    }
}
