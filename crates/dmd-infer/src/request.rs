use std::time::Duration;

use burn::tensor::Tensor;
use dmd_core::Noise;
use dmd_scheduler::{Sampler, Steps};
use image::RgbImage;

/// What to draw, with defaults for everything but the prompts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// One picture per prompt: a text, or the name of a class. May be empty where [`Self::embeddings`] are given.
    pub prompts: Vec<String>,
    /// One seed per picture; empty means 0, 1, 2 and so on.
    pub seeds: Vec<u64>,
    /// How to draw.
    pub method: Method,
    /// Height and width in pixels; `None` is the size that the model was trained on, or that of the picture to start
    /// from.
    pub size: Option<(usize, usize)>,
    /// Whose random numbers a seed stands for.
    pub noise: NoiseSource,
    /// Unit noise in place of the seeds', `[pictures, channels, height / 8, width / 8]` for Stable Diffusion.
    pub latents: Option<Tensor<4>>,
    /// Text features in place of the prompts'.
    pub embeddings: Option<Embeddings>,
    /// Layers of the text encoder to leave out at its end, for the prompt (as in diffusers, not for the negative
    /// one).
    pub clip_skip: usize,
}

/// How a picture is drawn.
#[derive(Debug, Clone, Default)]
pub enum Method {
    /// The distilled generator, in the steps that its recipe lists, without guidance: that is in its weights.
    #[default]
    Distilled,
    /// The teacher, step by step.
    Teacher(TeacherSettings),
}

/// What only a teacher can be told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TeacherSettings {
    /// How many sampling steps, or at which timesteps.
    pub steps: Steps,
    /// Classifier-free guidance, at least 1, which is none. `None` is the model's own: what its generator was distilled
    /// with, otherwise 7.5 for Stable Diffusion and 1 for classes.
    pub guidance_scale: Option<f64>,
    /// Share from 0 to 1 by which guidance is kept from widening the output's deviation (Lin et al. 2024); 0 turns it
    /// off.
    pub guidance_rescale: f64,
    /// What pictures should not show; the other end of guidance.
    pub negative_prompt: Option<String>,
    /// The sampler in place of the configured one.
    pub sampler: Option<Sampler>,
    /// A picture to start from, for all prompts (image to image).
    pub(crate) start: Option<StartPicture>,
}

/// A picture to start from.
#[derive(Debug, Clone)]
pub(crate) struct StartPicture {
    /// The picture; its size is the result's.
    pub(crate) picture: RgbImage,
    /// From 0 (the picture itself) to 1 (nothing of it): the share of the steps that are done.
    pub(crate) strength: f64,
}

impl TeacherSettings {
    /// So many steps, or these timesteps; everything else as the model has it.
    pub fn new(steps: impl Into<Steps>) -> Self {
        Self {
            steps: steps.into(),
            guidance_scale: None,
            guidance_rescale: 0.0,
            negative_prompt: None,
            sampler: None,
            start: None,
        }
    }

    /// The same settings with a guidance scale.
    pub fn with_guidance(self, scale: f64) -> Self {
        Self { guidance_scale: Some(scale), ..self }
    }

    /// The same settings with a guidance rescale.
    pub fn with_rescale(self, share: f64) -> Self {
        Self { guidance_rescale: share, ..self }
    }

    /// The same settings with a negative prompt.
    pub fn with_negative(self, prompt: impl Into<String>) -> Self {
        Self { negative_prompt: Some(prompt.into()), ..self }
    }

    /// The same settings with another sampler.
    pub fn with_sampler(self, sampler: Sampler) -> Self {
        Self { sampler: Some(sampler), ..self }
    }

    /// The same settings, starting from a picture, whose size is the result's. `strength` is the share of the steps that
    /// are done, from 0 (the picture itself) to 1 (nothing of it).
    pub fn with_start(self, picture: RgbImage, strength: f64) -> Self {
        Self { start: Some(StartPicture { picture, strength }), ..self }
    }
}

impl Method {
    /// The teacher in so many steps under a guidance scale.
    pub fn teacher(steps: usize, guidance_scale: f64) -> Self {
        Self::Teacher(TeacherSettings::new(steps).with_guidance(guidance_scale))
    }
}

impl From<TeacherSettings> for Method {
    fn from(settings: TeacherSettings) -> Self {
        Self::Teacher(settings)
    }
}

/// Whose random numbers a seed stands for; both draw in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseSource {
    /// `torch.Generator("cpu").manual_seed(seed)`: the pictures of diffusers on a CPU generator.
    #[default]
    TorchCpu,
    /// `torch.Generator("cuda").manual_seed(seed)`.
    TorchCuda,
}

impl NoiseSource {
    pub(crate) fn open(self, seed: u64) -> Noise {
        match self {
            Self::TorchCpu => Noise::torch_cpu(seed),
            Self::TorchCuda => Noise::torch_cuda(seed),
        }
    }
}

/// Text features of a request, `[pictures, tokens, width]` each.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// What to draw.
    pub prompt: Tensor<3>,
    /// The unconditional branch, one row or one per picture; `None` is that of the empty prompt.
    pub negative: Option<Tensor<3>>,
}

impl Request {
    /// A request to the distilled generator with seeds 0, 1, 2 and so on.
    pub fn new<P: Into<String>>(prompts: impl IntoIterator<Item = P>) -> Self {
        Self {
            prompts: prompts.into_iter().map(Into::into).collect(),
            seeds: Vec::new(),
            method: Method::Distilled,
            size: None,
            noise: NoiseSource::default(),
            latents: None,
            embeddings: None,
            clip_skip: 0,
        }
    }

    /// The same request with one seed per picture.
    pub fn with_seeds(self, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    /// The same request, drawn another way.
    pub fn with_method(self, method: impl Into<Method>) -> Self {
        Self { method: method.into(), ..self }
    }

    /// The same request for pictures of a height and width in pixels.
    pub fn with_size(self, height: usize, width: usize) -> Self {
        Self { size: Some((height, width)), ..self }
    }

    /// The same request with another source of random numbers.
    pub fn with_noise(self, noise: NoiseSource) -> Self {
        Self { noise, ..self }
    }

    /// The same request from given unit noise.
    pub fn with_latents(self, latents: Tensor<4>) -> Self {
        Self { latents: Some(latents), ..self }
    }

    /// The same request with given text features.
    pub fn with_embeddings(self, embeddings: Embeddings) -> Self {
        Self { embeddings: Some(embeddings), ..self }
    }

    /// The same request without the last layers of the text encoder.
    pub fn with_clip_skip(self, layers: usize) -> Self {
        Self { clip_skip: layers, ..self }
    }

    /// Number of pictures.
    pub(crate) fn count(&self) -> usize {
        match &self.embeddings {
            Some(embeddings) => embeddings.prompt.dims()[0],
            None => self.prompts.len(),
        }
    }

    pub(crate) fn teacher(&self) -> Option<&TeacherSettings> {
        match &self.method {
            Method::Distilled => None,
            Method::Teacher(settings) => Some(settings),
        }
    }
}

/// Pictures and how long they took.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// One picture per prompt, in order.
    pub pictures: Vec<RgbImage>,
    /// The seed of each picture.
    pub seeds: Vec<u64>,
    /// Wall clock of the whole request.
    pub timings: Timings,
}

/// Wall clock by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Prompts to text features.
    pub text: Duration,
    /// Noise to latents.
    pub denoising: Duration,
    /// Latents to pictures.
    pub decoding: Duration,
}

impl Timings {
    /// From prompt to pixels.
    pub fn total(&self) -> Duration {
        self.text + self.denoising + self.decoding
    }
}
