//! Distillation of a teacher into a generator of one or a few steps, as a [`Stage`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use dmd_core::{Distance, Distiller, FewStep, Guided, Noise};
use dmd_data::Dataset;
use dmd_model::{ConditionOf, Conditioner, Family, Model, Noising, Recipe, check_dtype};
use dmd_unet::{Network, Preconditioned};
use dmd_weights::{KeyMap, LoraSpelling, Precision};
use image::RgbImage;

use crate::config::DistillConfig;
use crate::fingerprint::Fingerprint;
use crate::pairs::Pairs;
use crate::reals::RealPool;
use crate::run::{Probe, Stage};
use crate::trainer::{Adversarial, Batch, Regression, Trainer, TrainerConfig, Turn};
use crate::{Error, Figures, chunks};

type NetworkOf<F> = Preconditioned<<F as Family>::Network>;

type TrainerOf<'a, F> = Trainer<'a, NetworkOf<F>, Guided<NetworkOf<F>>, NetworkOf<F>, Noising>;

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
pub struct DistillationStage<'a, F: Family> {
    config: DistillConfig,
    made_from: Fingerprint,
    material: Material<'a, F>,
    trainer: TrainerOf<'a, F>,
    recipe: Recipe,
}

/// What batches are made of.
#[derive(Debug)]
struct Material<'a, F: Family> {
    model: &'a Model<F>,
    dataset: Arc<dyn Dataset>,
    pairs: Option<Pairs>,
    /// Real samples and their captions, for the critic.
    reals: Option<RealPool>,
    batch: usize,
    device: Device,
}

impl<F: Family> Material<'_, F> {
    /// Conditions of captions; in the generator's turns those of `paired` pairs first.
    fn batch(&self, turn: Turn, paired: usize, noise: &mut Noise) -> Result<Batch<ConditionOf<F>>, Error> {
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
        let mut batch = Batch::new(self.model.conditioner.remembered(&prompts)?);
        if let Some((z, x0)) = rows {
            batch = batch.with_pairs(z, x0);
        }
        if let Some(reals) = &self.reals {
            let (x0, captions) = reals.draw(self.batch, noise);
            batch = batch.with_reals(x0, self.model.conditioner.remembered(&captions)?);
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
        parts: DistillationParts,
        device: &Device,
    ) -> Result<Self, Error> {
        let DistillationParts { dataset, pairs, made_from } = parts;
        config.check_schedule(model.noising.last_timestep())?;
        check_dtype(device, config.teacher_precision.dtype())?;
        let trainable = |network: NetworkOf<F>| match config.generator.recompute {
            // Activations of element-wise operations are computed again on the way back.
            true => network.train().fork(&device.clone().autodiff().gradient_checkpointing()),
            false => network.train(),
        };
        let started = |from: &Option<PathBuf>| -> Result<_, Error> {
            let network = trainable(model.teacher()?.clone());
            match from {
                Some(path) => Ok(model.with_weights(network, path)?),
                None => Ok(network),
            }
        };
        let updated = |mut network: NetworkOf<F>, purpose: &str| -> Result<_, Error> {
            if let Some(section) = &config.lora {
                let mut noise = Noise::stream(config.seed, purpose);
                network.network = section.attach(network.network, &F::Network::KEYS, &mut noise)?;
            }
            Ok(network)
        };
        let start = updated(started(&config.generator.start)?, "lora of the generator")?;
        let recipe = Recipe::new(
            config.timesteps(model.noising.last_timestep())?,
            config.guidance_scale,
            &model.noising,
        )?;
        let levels = recipe.timesteps.iter().map(|t| model.noising.at(*t)).collect();
        let generator = FewStep::new(start, levels).with_noise_scale(recipe.noise_scale);
        let mut fake = updated(started(&config.fake.start)?, "lora of the fake score")?;
        if let Some(loss) = config.fake.loss {
            fake = model.with_loss(fake, loss)?;
        }
        let mut reals = None;
        if let Some(section) = &config.adversarial {
            device.seed(config.seed);
            fake = model.with_critic(fake, &device.clone().autodiff())?;
            reals = Some(RealPool::encode(section.reals, dataset.as_ref(), model, config.seed, device)?);
        }
        let teacher = model.guided(config.guidance_scale, config.teacher_precision.dtype())?;
        let distiller = Distiller::new(generator, teacher, fake, model.noising.clone());
        let noise = Noise::stream(config.seed, "distillation");
        let trainer = Trainer::new(trainer_config(&config, model, device)?, distiller, noise, device);
        let batch = config.generator.batch;
        let material = Material { model, dataset, pairs, reals, batch, device: device.clone() };
        Ok(Self { trainer, material, made_from, recipe, config })
    }

    /// Writes the averaged generator into a folder: its network, with low-rank updates merged, and how it is called.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let network = self.trainer.generator().denoiser.network.clone().materialize();
        network.save(&self.material.model.config, folder, precision)?;
        Ok(self.recipe.write(folder)?)
    }

    /// Writes the averaged generator's low-rank updates into a folder, as LoRA files: `pytorch_lora_weights.safetensors` in
    /// PEFT's spelling, `kohya.safetensors` in kohya's, and how the generator is called. Nothing without `[lora]`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_lora(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let Some(section) = &self.config.lora else { return Ok(()) };
        let network = &self.trainer.generator().denoiser.network;
        for (name, spelling) in [("pytorch_lora_weights", LoraSpelling::Peft), ("kohya", LoraSpelling::Kohya)]
        {
            let path = folder.join(format!("{name}.safetensors"));
            let keys = &F::Network::KEYS;
            dmd_weights::save_lora(network, &path, keys, section.alpha(), spelling, precision)?;
        }
        Ok(self.recipe.write(folder)?)
    }

    /// Writes the fake score into a folder, with low-rank updates merged, and its critic's head where it has one: a second
    /// stage starts from both (`generator.start`, `fake.start`).
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_fake(&self, folder: &Path, precision: Precision) -> Result<(), Error> {
        let fake = self.trainer.distiller().fake.valid();
        if let Some(critic) = fake.critic() {
            let path = folder.join("critic.safetensors");
            dmd_weights::save(critic, &path, &KeyMap::default(), precision)?;
        }
        Ok(fake.network.materialize().save(&self.material.model.config, folder, precision)?)
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
        optimizer: config.optimizer.config(),
        fake_updates: if matches { fake.steps_per_generator_step } else { 0 },
        ema_decay: generator.ema_decay,
        matching: Some(matching.weighting),
        regression,
        adversarial,
        ..TrainerConfig::new(
            [generator.batch, channels, height, width],
            model.noising.times(matching.first_timestep..=matching.last_timestep),
            model.noising.times(0..=last),
        )
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
            let prompts: Vec<&str> = captions[range.clone()].iter().map(String::as_str).collect();
            let condition = model.conditioner.remembered(&prompts)?;
            let mut step = 0;
            let mut next = || {
                step += 1;
                drawn[step - 1].clone().narrow(0, range.start, range.len())
            };
            let z = next();
            let x0 = generator.generate(z, &condition, &mut next);
            let Some(decoded) = chunks::decode(&|x0| model.codec.decode(x0), x0, stopped) else {
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
