use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use dmd_clip::TextEncoder;
use dmd_core::{Guided, Noise, Prediction};
use dmd_scheduler::{SchedulerConfig, Steps, Walk};
use dmd_unet::{UNetConfig, UNetDenoiser};
use image::RgbImage;

use crate::builder::{Generator, PipelineBuilder};
use crate::checks::seeds_of;
use crate::observer::{Observer, Progress, Stage};
use crate::pictures::{PictureCoder, from_rgb8};
use crate::request::{Drawn, Method, NoiseSource, Request, Start, Timings};
use crate::{Error, to_rgb8};

/// Text to pictures with a distilled generator, a teacher, or both.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub(crate) text: TextEncoder,
    pub(crate) one_step: Option<Generator>,
    pub(crate) teacher: Option<UNetDenoiser>,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) unet: UNetConfig,
    pub(crate) coder: PictureCoder,
    pub(crate) guidance: f64,
    pub(crate) device: Device,
}

/// The pipeline under the name of its default method.
pub type OneStepPipeline = Pipeline;

impl Pipeline {
    /// Starts from a model folder in diffusers' layout, with the one-step UNet in `unet_one_step`.
    pub fn builder(model: impl Into<PathBuf>, device: &Device) -> PipelineBuilder {
        PipelineBuilder::new(model.into(), device)
    }

    /// Everything a model folder holds.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::build`].
    pub fn from_dir(model: &Path, device: &Device) -> Result<Self, Error> {
        Self::builder(model, device).build()
    }

    /// How many steps the distilled generator takes; `None` where there is none.
    pub fn generator_steps(&self) -> Option<usize> {
        Some(self.one_step.as_ref()?.timesteps.len())
    }

    /// What the networks predict.
    pub fn prediction(&self) -> Result<Prediction, Error> {
        Ok(self.scheduler.prediction()?)
    }

    /// Height and width of the pictures the model was trained on.
    pub fn default_size(&self) -> usize {
        self.unet.sample_size * self.coder.factor
    }

    /// The teacher's guidance where a request names none: what the generator was distilled with
    /// (`one_step.json`), or 7.5.
    pub fn default_guidance(&self) -> f64 {
        self.guidance
    }

    /// Draws a request's pictures; a picture depends on its own prompt and seed only, not on its
    /// batch.
    ///
    /// # Errors
    ///
    /// When the request has no sense for this model, or a stage's output is not finite.
    pub fn generate(&self, request: &Request) -> Result<Drawn, Error> {
        self.generate_with(request, &mut ())
    }

    /// [`Self::generate`] with an observer, which sees every stage and step and may end the request.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`]; [`Error::Cancelled`] when the observer ends it.
    pub fn generate_with(&self, request: &Request, observer: &mut dyn Observer) -> Result<Drawn, Error> {
        let seeds = seeds_of(request)?;
        self.check(request)?;
        let mut stage = |stage: Stage| {
            observer.on_stage(stage);
            if observer.cancelled() { Err(Error::Cancelled { steps: 0 }) } else { Ok(()) }
        };
        stage(Stage::Text)?;
        let start = Instant::now();
        let text = self.text_of(request)?;
        let encoded = Instant::now();
        if matches!(request.start, Start::Picture { .. }) {
            stage(Stage::Encoding)?;
        }
        let mut noises: Vec<Noise> = seeds.iter().map(|seed| request.noise.open(*seed)).collect();
        let begin = self.begin(request, &mut noises)?;
        stage(Stage::Denoising)?;
        let latents = self.denoise(request, begin, &text, &mut noises, observer)?;
        let denoised = Instant::now();
        observer.on_stage(Stage::Decoding);
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
        finite(self.text.encode(prompts)?, "text encoder")
    }

    /// The latents that a request's method makes of unit noise `z` (a request that starts from a
    /// picture is for [`Self::generate`]) and text features, `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`].
    pub fn denoise_from(
        &self,
        request: &Request,
        z: Tensor<4>,
        text: &Tensor<3>,
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        self.check(request)?;
        self.check_inputs(&z, text)?;
        let seeds =
            if request.seeds.is_empty() { (0..z.dims()[0] as u64).collect() } else { request.seeds.clone() };
        let mut noises: Vec<Noise> = seeds.iter().map(|seed| request.noise.open(*seed)).collect();
        // The stream stands after the first noise, as it does when that is drawn from it.
        for noise in &mut noises {
            noise.normals(z.dims()[1..].iter().product());
        }
        let walk = self.walk(request)?;
        let x = walk.as_ref().map_or(z.clone(), |walk| walk.start(z));
        self.denoise(request, Begin { x, walk }, text, &mut noises, observer)
    }

    /// The pictures of latents `[batch, channels, height, width]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when the decoder's output is not.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Vec<RgbImage>, Error> {
        Ok(to_rgb8(finite(self.coder.decode(latents), "autoencoder")?))
    }

    /// The noise of some seeds on PyTorch's CPU generator, one picture each,
    /// `[seeds, channels, height / f, width / f]`.
    pub fn noise(&self, seeds: &[u64], height: usize, width: usize) -> Tensor<4> {
        let mut noises: Vec<Noise> = seeds.iter().map(|seed| NoiseSource::TorchCpu.open(*seed)).collect();
        self.draw(&mut noises, self.latent_shape(height, width))
    }

    pub(crate) fn latent_shape(&self, height: usize, width: usize) -> [usize; 4] {
        let factor = self.coder.factor;
        [1, self.unet.in_channels, height / factor, width / factor]
    }

    /// Unit noise, a row from each stream.
    fn draw(&self, noises: &mut [Noise], shape: [usize; 4]) -> Tensor<4> {
        Tensor::cat(noises.iter_mut().map(|noise| noise.normal(shape, &self.device)).collect(), 0)
    }

    fn text_of(&self, request: &Request) -> Result<Tensor<3>, Error> {
        if let Some(embeddings) = &request.embeddings {
            return finite(embeddings.prompt.clone(), "given embeddings");
        }
        let prompts: Vec<&str> = request.prompts.iter().map(String::as_str).collect();
        finite(self.text.encode_skipping(&prompts, request.clip_skip)?, "text encoder")
    }

    /// The unconditional branch of guidance; as in diffusers, no layer of it is skipped.
    fn negative(&self, request: &Request) -> Result<Tensor<3>, Error> {
        if let Some(negative) = request.embeddings.as_ref().and_then(|e| e.negative.clone()) {
            return finite(negative, "given embeddings");
        }
        let prompt = request.negative_prompt.as_deref().unwrap_or("");
        self.encode_prompt(&[prompt])
    }

    /// The sampler's plan; none for one step.
    pub(crate) fn walk(&self, request: &Request) -> Result<Option<Walk>, Error> {
        let Method::Teacher { steps, .. } = request.method else {
            return Ok(None);
        };
        let steps = match &request.timesteps {
            Some(list) => Steps::Timesteps(list.clone()),
            None => Steps::Count(steps),
        };
        let walk = match request.sampler {
            Some(sampler) => self.scheduler.with_sampler(sampler).walk(steps)?,
            None => self.scheduler.walk(steps)?,
        };
        Ok(Some(match request.start {
            Start::Picture { strength, .. } => walk.with_strength(strength)?,
            _ => walk,
        }))
    }

    /// The first network call's input.
    fn begin(&self, request: &Request, noises: &mut [Noise]) -> Result<Begin, Error> {
        let walk = self.walk(request)?;
        let (height, width) = self.size_of(request)?;
        let shape = self.latent_shape(height, width);
        let x = match (&request.start, &walk) {
            (Start::Picture { picture, .. }, Some(walk)) => {
                let image = from_rgb8(std::slice::from_ref(picture), &self.device);
                let image = image.repeat_dim(0, noises.len());
                let x0 = self.coder.encode(image, |_| self.draw(noises, shape));
                walk.start_from(finite(x0, "autoencoder's encoder")?, self.draw(noises, shape))
            }
            (Start::Latents(z), walk) => {
                let z = finite(z.clone(), "given latents")?;
                // What the seeds give out next is what follows the first noise.
                let _ = self.draw(noises, shape);
                walk.as_ref().map_or(z.clone(), |walk| walk.start(z))
            }
            (_, walk) => {
                let z = self.draw(noises, shape);
                walk.as_ref().map_or(z.clone(), |walk| walk.start(z))
            }
        };
        Ok(Begin { x, walk })
    }

    fn denoise(
        &self,
        request: &Request,
        begin: Begin,
        text: &Tensor<3>,
        noises: &mut [Noise],
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        let Begin { x, walk } = begin;
        let (Some(walk), Method::Teacher { guidance_scale, .. }) = (walk, request.method) else {
            return self.draw_distilled(x, text, noises, observer);
        };
        let teacher = self.teacher()?;
        // Without guidance there is no second branch, and its text is not needed.
        let negative = if guidance_scale == 1.0 { text.clone() } else { self.negative(request)? };
        let teacher = Guided::new(teacher, negative, guidance_scale)
            .with_rescale(request.guidance_rescale, self.prediction()?);
        let [_, channels, height, width] = x.dims();
        let mut draw = || self.draw(noises, [1, channels, height, width]);
        let steps = walk.timesteps().len();
        let mut done = 0;
        let latents = walk.run(&teacher, x, text, &mut draw, |step, x0| {
            done = step;
            observer.on_step(&Progress { step, steps, x0 });
            if observer.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        finite(latents.ok_or(Error::Cancelled { steps: done })?, "UNet")
    }

    /// The distilled generator, in the steps it was distilled for.
    fn draw_distilled(
        &self,
        z: Tensor<4>,
        text: &Tensor<3>,
        noises: &mut [Noise],
        observer: &mut dyn Observer,
    ) -> Result<Tensor<4>, Error> {
        let generator = self.generator()?;
        let [_, channels, height, width] = z.dims();
        let mut draw = || self.draw(noises, [1, channels, height, width]);
        let steps = generator.timesteps.len();
        let mut done = 0;
        let x0 = generator.generate(z, text, &mut draw, |step, x0| {
            done = step;
            observer.on_step(&Progress { step, steps, x0 });
            if observer.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        finite(x0.ok_or(Error::Cancelled { steps: done })?, "UNet")
    }

    pub(crate) fn generator(&self) -> Result<&Generator, Error> {
        self.one_step.as_ref().ok_or(Error::Missing {
            wanted: "one-step generator (folder unet_one_step)",
            hint: "distil one with `dmd distill`, or ask for more steps",
        })
    }

    pub(crate) fn teacher(&self) -> Result<&UNetDenoiser, Error> {
        let hint = "ask for one step";
        self.teacher.as_ref().ok_or(Error::Missing { wanted: "teacher (folder unet)", hint })
    }
}

/// The first network call's input, and the sampler's plan where there is one.
struct Begin {
    x: Tensor<4>,
    walk: Option<Walk>,
}

/// The tensor itself, unless it holds a NaN or an infinity.
pub(crate) fn finite<const D: usize>(tensor: Tensor<D>, stage: &'static str) -> Result<Tensor<D>, Error> {
    // A sum is finite only if every term is; a sum of finite f32 latents cannot overflow here.
    let total: f32 = tensor.clone().abs().sum().into_scalar();
    if total.is_finite() { Ok(tensor) } else { Err(Error::NotFinite { stage }) }
}
