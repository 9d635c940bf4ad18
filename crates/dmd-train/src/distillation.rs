//! Distillation of a latent-diffusion teacher into a one-step generator, as a [`Stage`].

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use dmd_clip::TextEncoder;
use dmd_core::{Guided, Noise, OneStep};
use dmd_scheduler::{DiscreteSchedule, SchedulerConfig, TimeSampler};
use dmd_unet::{Autoencoder, Discriminator, UNetConfig, UNetDenoiser};
use dmd_weights::Precision;

use crate::checkpoint::RunState;
use crate::config::DistillConfig;
use crate::data::Source;

use crate::diffusion::Pool;
use crate::distiller::{Diffusion, Distiller, Draw, Reals, Targets, Terms};
use crate::ema::Ema;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::pairs::Pairs;
use crate::run::{Probe, Stage};
use crate::shapes::{Scene, Split};
use crate::trainee::PLAIN_KEYS;
use crate::{Error, LearningRate, assemble, picture, reader};

type Latent = Distiller<UNetDenoiser, Guided<UNetDenoiser>, UNetDenoiser, DiscreteSchedule>;

/// A teacher's parts, read from its folder onto the plain device.
#[derive(Debug, Clone)]
pub struct TeacherParts {
    /// Prompts to features.
    pub text: TextEncoder,
    /// The denoiser, unguided.
    pub denoiser: UNetDenoiser,
    /// The UNet's configuration.
    pub unet: UNetConfig,
    /// Latents to pictures.
    pub autoencoder: Autoencoder,
    /// The noise schedule and sampler.
    pub scheduler: SchedulerConfig,
}

impl TeacherParts {
    /// Reads a diffusers folder.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        let path = model.join("scheduler").join("scheduler_config.json");
        let scheduler: SchedulerConfig = dmd_weights::read_json(&path)?;
        scheduler.validate()?;
        let (unet, config) = dmd_unet::UNet2d::from_dir(&model.join("unet"), device)?;
        let (autoencoder, _) = Autoencoder::from_dir(&model.join("vae"), device)?;
        Ok(Self {
            text: TextEncoder::from_dir(model, device)?,
            denoiser: UNetDenoiser::new(unet, scheduler.prediction()?),
            unet: config,
            autoencoder,
            scheduler,
        })
    }

    /// Shape of a latent, `[channels, height, width]`.
    pub fn latent_shape(&self) -> [usize; 3] {
        [self.unet.in_channels, self.unet.sample_size, self.unet.sample_size]
    }

    /// The teacher under classifier-free guidance.
    ///
    /// # Errors
    ///
    /// When the empty prompt cannot be encoded.
    pub fn guided(&self, scale: f64) -> Result<Guided<UNetDenoiser>, Error> {
        Ok(Guided::new(self.denoiser.clone(), self.text.encode(&[""])?, scale))
    }
}

/// Trains a one-step generator.
#[derive(Debug)]
pub struct DistillationStage {
    config: DistillConfig,
    source: Source,
    text: TextEncoder,
    autoencoder: Autoencoder,
    pairs: Option<Pairs>,
    /// Real latents and their captions, for the critic.
    reals: Option<Pool>,
    latent_shape: [usize; 3],
    distiller: Latent,
    average: Ema<OneStep<UNetDenoiser>>,
    generator_optimizer: AdamW,
    fake_optimizer: AdamW,
    noise: Noise,
    device: Device,
}

/// A critic's head for the bottleneck of a UNet.
fn critic(unet: &UNetConfig, device: &Device) -> Result<Discriminator, Error> {
    let side = unet.sample_size / unet.downsampling();
    let channels = unet.block_out_channels.last().copied().unwrap_or(0);
    if side < 2 || !side.is_multiple_of(2) {
        return Err(Error::Option {
            key: "adversarial",
            value: format!("a bottleneck of {side} × {side}"),
            must: "an even side: this teacher's latents are too small for a critic",
        });
    }
    Ok(Discriminator::new(channels, side, unet.norm_num_groups, device))
}

/// DMD's and DMD2's: AdamW, decay 0.01, clip 10 (appendices).
fn optimizer_config() -> AdamWConfig {
    AdamWConfig::default()
}

impl DistillationStage {
    /// A generator and a fake score that start as copies of the teacher; `device` is the plain
    /// device.
    ///
    /// # Errors
    ///
    /// When the empty prompt cannot be encoded.
    pub fn new(
        config: DistillConfig,
        teacher: &TeacherParts,
        source: Source,
        pairs: Option<Pairs>,
        device: &Device,
    ) -> Result<Self, Error> {
        let schedule = teacher.scheduler.schedule();
        let last = schedule.count() - 1;
        let (alpha, sigma) = schedule.alpha_sigma(last);
        let trainable = || teacher.denoiser.clone().train();
        let generator = OneStep::new(trainable(), last as f64, alpha, sigma, 1.0);
        let mut fake = trainable().with_loss(config.fake.loss);
        let mut reals = None;
        if let Some(section) = &config.adversarial {
            device.seed(config.seed);
            fake = fake.with_critic(critic(&teacher.unet, &device.clone().autodiff())?);
            let mut noise = Noise::stream(config.seed, "reals");
            let tokenizer = teacher.text.tokenizer();
            let pool =
                Pool::draw(section.reals, &source, &teacher.autoencoder, tokenizer, &mut noise, device)?;
            let (found, wanted) = (pool.latent_shape(), teacher.latent_shape());
            if found != wanted {
                return Err(Error::Option {
                    key: "adversarial",
                    value: format!("real latents of {found:?}"),
                    must: "those of the teacher: pictures of the size it was trained on",
                });
            }
            reals = Some(pool);
        }
        Ok(Self {
            average: Ema::new(&generator, config.generator.ema_decay),
            distiller: Distiller {
                generator,
                teacher: teacher.guided(config.guidance_scale)?,
                fake,
                schedule,
            },
            text: teacher.text.clone(),
            autoencoder: teacher.autoencoder.clone(),
            latent_shape: teacher.latent_shape(),
            generator_optimizer: AdamW::new(optimizer_config()),
            fake_optimizer: AdamW::new(optimizer_config()),
            noise: Noise::stream(config.seed, "distillation"),
            device: device.clone(),
            source,
            pairs,
            reals,
            config,
        })
    }

    /// The averaged generator.
    pub fn generator(&self) -> &OneStep<UNetDenoiser> {
        self.average.model()
    }

    /// How the generator is called.
    pub fn settings(&self) -> assemble::OneStepSettings {
        assemble::OneStepSettings {
            timestep: self.distiller.schedule.count() - 1,
            noise_scale: 1.0,
            guidance_scale: self.config.guidance_scale,
        }
    }

    fn shape(&self, batch: usize) -> [usize; 4] {
        let [channels, height, width] = self.latent_shape;
        [batch, channels, height, width]
    }

    /// One turn's noise, captions and targets: paired rows first, then fresh ones.
    fn turn(&mut self, paired_only: bool) -> Result<(Draw, Option<Targets>, Tensor<3>), Error> {
        let batch = self.config.generator.batch;
        let shape = self.shape(batch);
        let times =
            TimeSampler::Timesteps(self.config.matching.first_timestep..=self.config.matching.last_timestep);
        let mut draw = Draw::new(&mut self.noise, shape, &times, &self.device);
        let mut captions = Vec::with_capacity(batch);
        let mut targets = None;
        if let (Some(pairs), Some(section)) = (&self.pairs, &self.config.regression) {
            let count = if paired_only { batch } else { (batch / 2).max(1) };
            let places: Vec<usize> = (0..count).map(|_| self.noise.below(pairs.len())).collect();
            captions.extend(places.iter().map(|place| pairs.caption(*place).to_owned()));
            let (z, x0) = pairs.get(&places, &self.device);
            draw.z = match count < batch {
                true => Tensor::cat(vec![z, draw.z.narrow(0, count, batch - count)], 0),
                false => z,
            };
            targets = Some(Targets { x0, weight: section.weight });
        }
        while captions.len() < batch {
            captions.push(self.source.caption(&mut self.noise)?);
        }
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        Ok((draw, targets, self.text.encode(&prompts)?))
    }

    /// Noise and times of one diffusion for the critic, over the whole schedule.
    fn diffusion(&mut self, shape: [usize; 4]) -> Diffusion {
        let times = TimeSampler::Timesteps(0..=self.distiller.schedule.count() - 1);
        Diffusion::new(&mut self.noise, shape, &times, &self.device)
    }

    /// The critic's side of the adversarial term on samples `x`, where there is one.
    fn critic_loss(&mut self, x: &Tensor<4>, text: &Tensor<3>) -> Result<Option<Tensor<1>>, Error> {
        let Some(pool) = &self.reals else {
            return Ok(None);
        };
        let places: Vec<usize> = (0..x.dims()[0]).map(|_| self.noise.below(pool.len())).collect();
        let x0 = pool.latents(&places, &self.device);
        let captions: Vec<Option<usize>> = places.into_iter().map(Some).collect();
        let empty = self.text.tokenizer().encode("")?;
        let condition = self.text.model().forward(pool.ids(&captions, &empty, &self.device));
        let reals = Reals { x0, condition, diffusion: self.diffusion(x.dims()) };
        let diffusion = self.diffusion(x.dims());
        Ok(self.distiller.critic_loss(x.clone(), &diffusion, text, &reals))
    }

    /// One update of the fake score on samples `x`; its loss, and the critic's.
    fn fake_turn(
        &mut self,
        step: usize,
        x: Tensor<4>,
        text: &Tensor<3>,
    ) -> Result<(f64, Option<f64>), Error> {
        let critic = self.critic_loss(&x, text)?;
        let times = TimeSampler::Timesteps(0..=self.distiller.schedule.count() - 1);
        let draw = Draw::new(&mut self.noise, x.dims(), &times, &self.device);
        let loss = self.distiller.fake_loss(x, &draw, text);
        let weight = self.config.adversarial.as_ref().map_or(0.0, |section| section.critic_weight);
        let total = match &critic {
            Some(critic) => loss.clone() + critic.clone() * weight,
            None => loss.clone(),
        };
        let mut grads = total.backward();
        let grads = GradientsParams::from_module(&mut grads, &self.distiller.fake);
        let section = &self.config.fake;
        let rate = LearningRate::constant(section.learning_rate, self.config.generator.warmup_steps);
        let fake = self.distiller.fake.clone();
        let (fake, norm) = self.fake_optimizer.step(rate.at(step), fake, grads);
        self.distiller.fake = fake;
        let number = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let loss = if norm.is_finite() { number(loss) } else { norm };
        Ok((loss, critic.map(number)))
    }
}

impl Stage for DistillationStage {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let warm_up = self.config.regression.as_ref().map_or(0, |section| section.warmup_steps);
        let (draw, targets, text) = self.turn(step < warm_up)?;
        let loss = match &targets {
            Some(targets) if step < warm_up => self.distiller.regression_loss(&draw, targets, &text),
            targets => {
                let weight = self.config.adversarial.as_ref().map(|section| section.generator_weight);
                let diffusion = weight.map(|weight| (self.diffusion(draw.z.dims()), weight));
                let terms = Terms {
                    matching: Some(self.config.matching.weighting),
                    targets: targets.as_ref(),
                    adversary: diffusion.as_ref().map(|(diffusion, weight)| (diffusion, *weight)),
                };
                self.distiller.generator_loss_of(&draw, &terms, &text)
            }
        };
        let mut grads = loss.total.backward();
        let grads = GradientsParams::from_module(&mut grads, &self.distiller.generator);
        let section = &self.config.generator;
        let rate = LearningRate::cosine(section.learning_rate, section.warmup_steps, self.config.pace.steps)
            .at(step);
        let generator = self.distiller.generator.clone();
        let (generator, norm) = self.generator_optimizer.step(rate, generator, grads);
        self.average = self.average.clone().update(&generator, step);
        self.distiller.generator = generator;

        // The fake score sees the very samples of this turn first, then fresh ones.
        let (mut fake, mut critic) = self.fake_turn(step, loss.x.clone(), &text)?;
        for _ in 1..self.config.fake.steps_per_generator_step {
            let (draw, _, text) = self.turn(false)?;
            let x = self.distiller.generator.valid().generate(draw.z, &text);
            (fake, critic) = self.fake_turn(step, x, &text)?;
        }
        let number = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let mean = number(loss.x.clone().mean());
        let deviation = number((loss.x - mean).square().mean()).sqrt();
        let mut losses = vec![
            ("matching", number(loss.matching)),
            ("fake", fake),
            ("gradient_norm", norm),
            ("sample_mean", mean),
            ("sample_deviation", deviation),
            ("learning_rate", rate),
        ];
        if let Some(regression) = loss.regression {
            losses.push(("regression", number(regression)));
        }
        if let Some(adversarial) = loss.adversarial {
            losses.push(("adversarial", number(adversarial)));
        }
        if let Some(critic) = critic {
            losses.push(("critic", critic));
        }
        Ok(losses)
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        let precision = Precision::Single;
        let path = |name: &str| folder.join(format!("{name}.safetensors"));
        dmd_weights::save(&self.distiller.generator.valid(), &path("generator"), &PLAIN_KEYS, precision)?;
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

    /// One-step pictures of held-out captions, and how many of 96 are right.
    fn probe(&self) -> Result<Probe, Error> {
        let mut noise = Noise::stream(0, "probe");
        let count = 96;
        let (mut captions, mut scenes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match &self.source {
                Source::Shapes => {
                    let scene = Scene::draw(Split::HeldOut, &mut noise);
                    captions.push(scene.caption.clone());
                    scenes.push(scene);
                }
                folder => captions.push(folder.caption(&mut noise)?),
            }
        }
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        let z = noise.normal(self.shape(count), &self.device);
        let x0 = self.average.model().generate(z, &self.text.encode(&prompts)?);
        let mut pictures = picture::from_tensor(self.autoencoder.decode(x0));
        let mut figures = Vec::new();
        if !scenes.is_empty() {
            let right = reader::count_right(&scenes, &pictures);
            figures.push(("probe_accuracy", right as f64 / count as f64));
        }
        pictures.truncate(32);
        Ok(Probe { pictures, figures })
    }
}
