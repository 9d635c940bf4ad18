use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor};
use dmd_clip::TextEncoder;
use dmd_core::{FewStep, Level};
use dmd_scheduler::SchedulerConfig;
use dmd_unet::{UNet2d, UNetConfig, UNetDenoiser};
use serde_json::Value;

use crate::pictures::PictureCoder;
use crate::{Error, Pipeline};

/// Where a [`Pipeline`]'s parts come from; everything not named is looked for in the model folder.
#[derive(Debug, Clone)]
pub struct PipelineBuilder {
    model: PathBuf,
    generator: Option<PathBuf>,
    tiny_autoencoder: Option<PathBuf>,
    tile: Option<usize>,
    dtype: FloatDType,
    device: Device,
    parts: Parts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    All,
    OneStepOnly,
    TeacherOnly,
}

/// Guidance where neither request nor model names one: diffusers' default for Stable Diffusion.
const DEFAULT_GUIDANCE: f64 = 7.5;

/// Smallest side of a tile, in latents.
const MIN_TILE: usize = 16;

impl PipelineBuilder {
    pub(crate) fn new(model: PathBuf, device: &Device) -> Self {
        Self {
            model,
            generator: None,
            tiny_autoencoder: None,
            tile: None,
            dtype: FloatDType::F32,
            device: device.clone(),
            parts: Parts::All,
        }
    }

    /// The one-step generator in place of `unet_one_step` in the model folder: a diffusers UNet folder,
    /// or a bare state dict (`.safetensors`, or `.bin` with the feature `pytorch`) of the teacher's
    /// architecture, as DMD's checkpoints are.
    pub fn generator(self, path: impl Into<PathBuf>) -> Self {
        Self { generator: Some(path.into()), ..self }
    }

    /// The folder of an `AutoencoderTiny` (TAESD) in place of the full autoencoder: at 512×512 an
    /// eighteenth of its work.
    pub fn tiny_autoencoder(self, folder: impl Into<PathBuf>) -> Self {
        Self { tiny_autoencoder: Some(folder.into()), ..self }
    }

    /// Encodes and decodes large pictures in overlapping tiles of `side` × `side` latents, so that
    /// they need the memory of a tile (see [`dmd_unet::Autoencoder::decode_tiled`]).
    pub fn tiles(self, side: usize) -> Self {
        Self { tile: Some(side), ..self }
    }

    /// The float type of UNets and autoencoder, f32 by default. In half precision what half precision is too coarse
    /// for stays in single: the statistics of normalisations, the time's embedding, the text encoder, and every
    /// step of the sampler, the one to x0 first, which multiplies errors by 14.6 at t = 999.
    pub fn dtype(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }

    /// How many steps the generator was distilled for; `None` where there is no generator.
    ///
    /// # Errors
    ///
    /// When its `one_step.json` is damaged.
    pub fn generator_steps(&self) -> Result<Option<usize>, Error> {
        let path = self.generator.clone().unwrap_or_else(|| self.model.join("unet_one_step"));
        if self.generator.is_none() && !path.is_dir() {
            return Ok(None);
        }
        Ok(Some(Settings::beside(&path)?.timesteps.map_or(1, |list| list.len())))
    }

    /// Only the generator where there is one, else only the teacher.
    pub(crate) fn one_step_if_there(self) -> Result<Self, Error> {
        Ok(if self.generator_steps()?.is_some() { self.one_step_only() } else { self.teacher_only() })
    }

    /// Leaves the teacher's UNet unread: half the memory, one-step requests only.
    pub fn one_step_only(self) -> Self {
        Self { parts: Parts::OneStepOnly, ..self }
    }

    /// Leaves the one-step generator unread.
    pub fn teacher_only(self) -> Self {
        Self { parts: Parts::TeacherOnly, ..self }
    }

    /// Reads the parts.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or does not fit.
    pub fn build(self) -> Result<Pipeline, Error> {
        let Self { model, generator, tiny_autoencoder, tile, dtype, device, parts } = self;
        check_dtype(&device, dtype)?;
        let autoencoder = if tiny_autoencoder.is_some() { None } else { Some("vae") };
        for missing in ["text_encoder", "tokenizer", "scheduler"].into_iter().chain(autoencoder) {
            if !model.join(missing).is_dir() {
                return Err(Error::NoModel { folder: model, missing });
            }
        }
        if let Some(side) = tile.filter(|side| *side < MIN_TILE) {
            return Err(Error::Tile { side, min: MIN_TILE });
        }
        let path = model.join("scheduler").join("scheduler_config.json");
        let scheduler: SchedulerConfig = dmd_weights::read_json(&path)?;
        scheduler.validate()?;
        let prediction = scheduler.prediction()?;

        let mut config = None;
        let mut one_step = None;
        let mut guidance = DEFAULT_GUIDANCE;
        let named = generator.is_some();
        let path = generator.unwrap_or_else(|| model.join("unet_one_step"));
        if parts != Parts::TeacherOnly && (named || path.is_dir()) {
            let (unet, found) = generator_from(&path, &model, &device)?;
            let settings = Settings::beside(&path)?;
            guidance = settings.guidance_scale.unwrap_or(guidance);
            let denoiser = in_precision(UNetDenoiser::new(unet, prediction), dtype);
            one_step = Some(settings.freeze(denoiser, &scheduler)?);
            config = Some(found);
        }
        let mut teacher = None;
        if parts != Parts::OneStepOnly && model.join("unet").is_dir() {
            let (unet, found) = UNet2d::from_dir(&model.join("unet"), &device)?;
            teacher = Some(in_precision(UNetDenoiser::new(unet, prediction), dtype));
            config = Some(found);
        }
        let Some(unet) = config else {
            return Err(Error::NoModel { folder: model, missing: "unet or unet_one_step" });
        };
        let coder = match tiny_autoencoder {
            Some(folder) => PictureCoder::tiny(&folder, &device)?,
            None => PictureCoder::full(&model.join("vae"), tile, &device)?,
        };
        let coder = if dtype == FloatDType::F32 { coder } else { coder.in_precision(dtype) };
        let text = TextEncoder::from_dir(&model, &device)?;
        Ok(Pipeline { text, one_step, teacher, scheduler, unet, coder, guidance, device })
    }
}

fn in_precision(denoiser: UNetDenoiser, dtype: FloatDType) -> UNetDenoiser {
    if dtype == FloatDType::F32 { denoiser } else { denoiser.in_precision(dtype) }
}

/// Refuses a float type that a device does not compute in.
pub(crate) fn check_dtype(device: &Device, dtype: FloatDType) -> Result<(), Error> {
    let known = [FloatDType::F32, FloatDType::F16, FloatDType::BF16].contains(&dtype);
    if known && device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(Error::Dtype { dtype })
}

/// A generator's folder, or its bare state dict for the architecture of the model's `unet`.
pub(crate) fn generator_from(
    path: &Path,
    model: &Path,
    device: &Device,
) -> Result<(UNet2d, UNetConfig), Error> {
    if path.is_dir() {
        return Ok(UNet2d::from_dir(path, device)?);
    }
    let config: UNetConfig = dmd_weights::read_config(&model.join("unet"))?;
    Ok((UNet2d::from_file(path, &config, device)?, config))
}

/// How a generator is called: `one_step.json` beside its weights, or DMD's own `t = 999` with unit
/// noise. A generator of several steps has a list of `timesteps`.
pub(crate) struct Settings {
    pub(crate) timesteps: Option<Vec<usize>>,
    noise_scale: f64,
    /// Guidance that its teacher was distilled with.
    pub(crate) guidance_scale: Option<f64>,
}

impl Settings {
    pub(crate) fn beside(generator: &Path) -> Result<Self, Error> {
        let path = match generator.is_dir() {
            true => generator.join("one_step.json"),
            false => generator.with_file_name("one_step.json"),
        };
        let file: Value = if path.is_file() { dmd_weights::read_json(&path)? } else { Value::Null };
        let number = |key: &str| file.get(key).and_then(Value::as_f64);
        let whole = |value: &Value| value.as_u64().map(|t| t as usize);
        let listed = file.get("timesteps").and_then(Value::as_array);
        let listed: Option<Vec<usize>> = listed.and_then(|list| list.iter().map(whole).collect());
        let single = file.get("timestep").and_then(whole).map(|t| vec![t]);
        Ok(Self {
            timesteps: listed.or(single),
            noise_scale: number("noise_scale").filter(|scale| scale.is_finite()).unwrap_or(1.0),
            guidance_scale: number("guidance_scale").filter(|scale| *scale >= 1.0),
        })
    }

    fn freeze(&self, denoiser: UNetDenoiser, scheduler: &SchedulerConfig) -> Result<Generator, Error> {
        let schedule = scheduler.schedule();
        let last = schedule.count() - 1;
        let timesteps = self.timesteps.clone().unwrap_or(vec![last]);
        let descends = timesteps.windows(2).all(|pair| pair[0] > pair[1]);
        if timesteps.is_empty() || !descends || timesteps.iter().any(|t| *t > last) {
            return Err(dmd_scheduler::Error::Timesteps {
                timesteps,
                reason: format!("one_step.json lists those of its generator, descending from {last} at most"),
            }
            .into());
        }
        let level = |t: &usize| {
            let (alpha, sigma) = schedule.alpha_sigma(*t);
            Level { t: *t as f64, alpha, sigma }
        };
        let network = FewStep::new(denoiser, timesteps.iter().map(level).collect());
        Ok(Generator { network, timesteps, noise_scale: self.noise_scale })
    }
}

/// A distilled generator, as it was distilled.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    network: FewStep<UNetDenoiser>,
    pub(crate) timesteps: Vec<usize>,
    noise_scale: f64,
}

impl Generator {
    /// Clean samples of unit noise; `draw` gives fresh noise between steps, and `on_step` sees each
    /// step's prediction and may end the walk.
    pub(crate) fn generate(
        &self,
        z: Tensor<4>,
        text: &Tensor<3>,
        draw: &mut dyn FnMut() -> Tensor<4>,
        mut on_step: impl FnMut(usize, &Tensor<4>) -> ControlFlow<()>,
    ) -> Option<Tensor<4>> {
        let mut x = if self.noise_scale == 1.0 { z } else { z * self.noise_scale };
        for step in 0..self.timesteps.len() {
            if step > 0 {
                x = self.network.renoise(step, x, draw());
            }
            x = self.network.call(step, x, text);
            if on_step(step + 1, &x).is_break() {
                return None;
            }
        }
        Some(x)
    }
}
