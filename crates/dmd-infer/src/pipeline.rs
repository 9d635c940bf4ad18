use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use dmd_clip::TextEncoder;
use dmd_core::{Guided, Noise, OneStep, Prediction};
use dmd_scheduler::SchedulerConfig;
use dmd_unet::{Autoencoder, AutoencoderConfig, UNet2d, UNetConfig, UNetDenoiser};
use image::RgbImage;
use serde_json::Value;

use crate::request::{Drawn, Method, Request, Timings};
use crate::{Error, to_rgb8};

/// Largest picture, in pixels of one side: a request above it is a slip, not a wish.
const MAX_SIDE: usize = 4096;

/// Text to pictures with a distilled generator, a teacher, or both.
#[derive(Debug, Clone)]
pub struct Pipeline {
    text: TextEncoder,
    generator: Option<OneStep<UNetDenoiser>>,
    teacher: Option<UNetDenoiser>,
    scheduler: SchedulerConfig,
    unet: UNetConfig,
    autoencoder: Autoencoder,
    autoencoder_config: AutoencoderConfig,
    device: Device,
}

/// The pipeline under the name of its default method.
pub type OneStepPipeline = Pipeline;

/// Where a [`Pipeline`]'s parts come from; everything not named is looked for in the model folder.
#[derive(Debug, Clone)]
pub struct PipelineBuilder {
    model: PathBuf,
    generator: Option<PathBuf>,
    device: Device,
    parts: Parts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    All,
    OneStepOnly,
}

impl PipelineBuilder {
    /// The one-step generator's folder, in place of `unet_one_step` in the model folder.
    pub fn generator(self, folder: impl Into<PathBuf>) -> Self {
        Self { generator: Some(folder.into()), ..self }
    }

    /// Leaves the teacher's UNet unread: half the memory, one-step requests only.
    pub fn one_step_only(self) -> Self {
        Self { parts: Parts::OneStepOnly, ..self }
    }

    /// Reads the parts.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn build(self) -> Result<Pipeline, Error> {
        let Self { model, generator, device, parts } = self;
        for missing in ["text_encoder", "tokenizer", "vae", "scheduler"] {
            if !model.join(missing).is_dir() {
                return Err(Error::NoModel { folder: model, missing });
            }
        }
        let path = model.join("scheduler").join("scheduler_config.json");
        let scheduler: SchedulerConfig = dmd_weights::read_json(&path)?;
        scheduler.validate()?;
        let prediction = scheduler.prediction()?;
        let (autoencoder, autoencoder_config) = Autoencoder::from_dir(&model.join("vae"), &device)?;

        let named = generator.is_some();
        let folder = generator.unwrap_or_else(|| model.join("unet_one_step"));
        let mut generator = None;
        let mut config = None;
        if named || folder.is_dir() {
            let (unet, found) = UNet2d::from_dir(&folder, &device)?;
            generator = Some(one_step(UNetDenoiser::new(unet, prediction), &folder, &scheduler)?);
            config = Some(found);
        }
        let mut teacher = None;
        if parts == Parts::All && model.join("unet").is_dir() {
            let (unet, found) = UNet2d::from_dir(&model.join("unet"), &device)?;
            teacher = Some(UNetDenoiser::new(unet, prediction));
            config = Some(found);
        }
        let Some(unet) = config else {
            return Err(Error::NoModel { folder: model, missing: "unet or unet_one_step" });
        };
        Ok(Pipeline {
            text: TextEncoder::from_dir(&model, &device)?,
            generator,
            teacher,
            scheduler,
            unet,
            autoencoder,
            autoencoder_config,
            device,
        })
    }
}

/// Freezes the generator at the level it was distilled for: `one_step.json` beside its weights, or
/// DMD's own `t = 999` with unit noise.
fn one_step(
    denoiser: UNetDenoiser,
    folder: &Path,
    scheduler: &SchedulerConfig,
) -> Result<OneStep<UNetDenoiser>, Error> {
    let schedule = scheduler.schedule();
    let path = folder.join("one_step.json");
    let settings: Value = if path.is_file() { dmd_weights::read_json(&path)? } else { Value::Null };
    let last = schedule.count() - 1;
    let timestep = settings.get("timestep").and_then(Value::as_u64).map_or(last, |t| t as usize);
    let noise_scale = settings.get("noise_scale").and_then(Value::as_f64).unwrap_or(1.0);
    if timestep > last {
        return Err(dmd_scheduler::Error::Unsupported {
            key: "one_step.json: timestep".to_owned(),
            value: timestep.to_string(),
            hint: format!("the schedule ends at {last}"),
        }
        .into());
    }
    let (alpha, sigma) = schedule.alpha_sigma(timestep);
    Ok(OneStep::new(denoiser, timestep as f64, alpha, sigma, noise_scale))
}

impl Pipeline {
    /// Starts from a model folder in diffusers' layout, with the one-step UNet in `unet_one_step`.
    pub fn builder(model: impl Into<PathBuf>, device: &Device) -> PipelineBuilder {
        PipelineBuilder { model: model.into(), generator: None, device: device.clone(), parts: Parts::All }
    }

    /// Everything a model folder holds.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        Self::builder(model, device).build()
    }

    /// What the networks predict.
    pub fn prediction(&self) -> Result<Prediction, Error> {
        Ok(self.scheduler.prediction()?)
    }

    /// Height and width of the pictures the model was trained on.
    pub fn default_size(&self) -> usize {
        self.unet.sample_size * self.autoencoder_config.downsampling()
    }

    /// Draws a request's pictures; a picture depends on its own prompt and seed only, not on its
    /// batch.
    ///
    /// # Errors
    ///
    /// When the request has no sense for this model, or a stage's output is not finite.
    pub fn generate(&self, request: &Request) -> Result<Drawn, Error> {
        self.generate_with(request, |_, _| ControlFlow::Continue(()))
    }

    /// [`Self::generate`] with an observer: after each sampling step it receives the number of
    /// steps done and the clean latents predicted so far, and may break off.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`]; [`Error::Cancelled`] when the observer breaks off.
    pub fn generate_with(
        &self,
        request: &Request,
        mut on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Result<Drawn, Error> {
        let seeds = seeds_of(request)?;
        let (height, width) = self.check_size(request.size)?;
        let start = Instant::now();
        let prompts: Vec<&str> = request.prompts.iter().map(String::as_str).collect();
        let text = self.encode_prompt(&prompts)?;
        let encoded = Instant::now();

        let z = self.noise(&seeds, height, width);
        let mut done = 0;
        let latents = match request.method {
            Method::OneStep => {
                let x0 = self.one_step()?.generate(z, &text);
                done = 1;
                on_step(1, &x0).is_continue().then_some(x0)
            }
            Method::Teacher { steps, guidance_scale } => {
                let teacher = self.teacher(guidance_scale)?;
                self.scheduler.sample(&teacher, steps, z, &text, |step, x0| {
                    done = step;
                    on_step(step, x0)
                })?
            }
        };
        let latents = latents.ok_or(Error::Cancelled { steps: done })?;
        let latents = finite(latents, "UNet")?;
        let denoised = Instant::now();
        let pictures = self.decode(latents)?;
        let decoded = Instant::now();
        Ok(Drawn {
            pictures,
            seeds,
            timings: Timings {
                text: encoded - start,
                denoising: denoised - encoded,
                decoding: decoded - denoised,
            },
        })
    }

    /// The prompts' text features, `[batch, tokens, width]`.
    ///
    /// # Errors
    ///
    /// When a prompt is too long, or the features are not finite.
    pub fn encode_prompt(&self, prompts: &[&str]) -> Result<Tensor<3>, Error> {
        let text = self.text.encode(prompts)?;
        finite(text, "text encoder")
    }

    /// The pictures of latents `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when the decoder's output is not.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Vec<RgbImage>, Error> {
        Ok(to_rgb8(finite(self.autoencoder.decode(latents), "autoencoder")?))
    }

    /// The noise of some seeds, one picture each, `[seeds, channels, height / f, width / f]`.
    pub fn noise(&self, seeds: &[u64], height: usize, width: usize) -> Tensor<4> {
        let factor = self.autoencoder_config.downsampling();
        let shape = [1, self.unet.in_channels, height / factor, width / factor];
        let each = seeds.iter().map(|seed| Noise::from_seed(*seed).normal(shape, &self.device));
        Tensor::cat(each.collect(), 0)
    }

    fn one_step(&self) -> Result<&OneStep<UNetDenoiser>, Error> {
        self.generator.as_ref().ok_or(Error::Missing {
            wanted: "one-step generator (folder unet_one_step)",
            hint: "distil one with `dmd distill`, or ask for more steps",
        })
    }

    fn teacher(&self, scale: f64) -> Result<Guided<&UNetDenoiser>, Error> {
        if !(scale.is_finite() && scale >= 1.0) {
            return Err(Error::Guidance { scale });
        }
        let teacher = self
            .teacher
            .as_ref()
            .ok_or(Error::Missing { wanted: "teacher (folder unet)", hint: "ask for one step" })?;
        Ok(Guided::new(teacher, self.text.encode(&[""])?, scale))
    }

    fn check_size(&self, size: Option<(usize, usize)>) -> Result<(usize, usize), Error> {
        let side = self.default_size();
        let (height, width) = size.unwrap_or((side, side));
        let multiple = self.autoencoder_config.downsampling() * self.unet.downsampling();
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple) && side <= MAX_SIDE;
        if fits(height) && fits(width) {
            return Ok((height, width));
        }
        Err(Error::Size { width, height, multiple, max: MAX_SIDE })
    }
}

fn seeds_of(request: &Request) -> Result<Vec<u64>, Error> {
    let prompts = request.prompts.len();
    if prompts == 0 || request.prompts.iter().any(|prompt| prompt.trim().is_empty()) {
        return Err(Error::EmptyPrompt);
    }
    if request.seeds.is_empty() {
        return Ok((0..prompts as u64).collect());
    }
    if request.seeds.len() != prompts {
        return Err(Error::Seeds { prompts, seeds: request.seeds.len() });
    }
    Ok(request.seeds.clone())
}

/// The tensor itself, unless it holds a NaN or an infinity.
fn finite<const D: usize>(tensor: Tensor<D>, stage: &'static str) -> Result<Tensor<D>, Error> {
    // A sum is finite only if every term is; a sum of finite f32 latents cannot overflow here.
    let total: f32 = tensor.clone().abs().sum().into_scalar();
    if total.is_finite() { Ok(tensor) } else { Err(Error::NotFinite { stage }) }
}
