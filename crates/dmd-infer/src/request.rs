use std::time::Duration;

use burn::tensor::Tensor;
use dmd_core::Noise;
use dmd_model::{SizeConditions, TextFeatures};
use dmd_scheduler::{Sampler, Steps};
use image::RgbImage;

/// A request for pictures. Everything except the prompts has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// One prompt per picture: a text, or the name of a class. The list must be empty if [`Self::embeddings`] are
    /// given.
    pub prompts: Vec<String>,
    /// One seed per picture. An empty list means 0, 1, 2 and so on.
    pub seeds: Vec<u64>,
    /// How to draw.
    pub method: Method,
    /// Height and width in pixels. `None` means the size of the picture to start from, otherwise the size that the
    /// model was trained on.
    pub size: Option<(usize, usize)>,
    /// The random number generator that the seeds are for.
    pub noise: NoiseSource,
    /// Unit noise that replaces the first noise of the seeds, `[pictures, channels, height / 8, width / 8]` for Stable
    /// Diffusion.
    pub latents: Option<Tensor<4>>,
    /// Text features that replace those of the prompts.
    pub embeddings: Option<Embeddings>,
    /// How many of the text encoder's last layers are skipped for the prompt. As in diffusers, none is skipped for the
    /// negative prompt.
    pub clip_skip: usize,
    /// The sizes of the picture in Stable Diffusion XL's condition. `None` means the picture's own size without
    /// cropping. For other families this must be `None`.
    pub sizes: Option<SizeConditions>,
}

/// How a picture is drawn.
#[derive(Debug, Clone, Default)]
pub enum Method {
    /// By the distilled generator, in the steps of its recipe. It needs no guidance, because its weights contain that
    /// of the teacher.
    #[default]
    Distilled,
    /// By the teacher, in many steps.
    Teacher(TeacherSettings),
}

/// Settings that only a teacher has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TeacherSettings {
    /// The number of sampling steps, or the list of timesteps.
    pub steps: Steps,
    /// Scale of classifier-free guidance, at least 1; 1 turns guidance off. `None` means the model's default: the scale
    /// that its generator was distilled with, otherwise 7.5 for Stable Diffusion, 5 for Stable Diffusion XL and 1 for
    /// classes.
    pub guidance_scale: Option<f64>,
    /// Guidance rescale (Lin et al. 2024), from 0 to 1: how far the output's standard deviation, which guidance
    /// increases, is brought back. 0 turns the rescale off.
    pub guidance_rescale: f64,
    /// What pictures should not show. Guidance points away from this prompt.
    pub negative_prompt: Option<String>,
    /// A sampler that replaces the configured one.
    pub sampler: Option<Sampler>,
    /// A picture to start from, for all prompts (image to image).
    pub(crate) start: Option<StartPicture>,
}

/// A picture to start from.
#[derive(Debug, Clone)]
pub(crate) struct StartPicture {
    /// The picture. The result has the same size.
    pub(crate) picture: RgbImage,
    /// The fraction of the steps that are done, from 0 (the picture itself) to 1 (nothing of the picture is left).
    pub(crate) strength: f64,
}

impl TeacherSettings {
    /// Settings with a number of steps or a list of timesteps. Everything else has the model's defaults.
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

    /// The same settings, starting from a picture, whose size the result has. `strength` is the fraction of the steps
    /// that are done, from 0 (the picture itself) to 1 (nothing of the picture is left).
    pub fn with_start(self, picture: RgbImage, strength: f64) -> Self {
        Self { start: Some(StartPicture { picture, strength }), ..self }
    }
}

impl Method {
    /// The teacher, with a number of steps and a guidance scale.
    pub fn teacher(steps: usize, guidance_scale: f64) -> Self {
        Self::Teacher(TeacherSettings::new(steps).with_guidance(guidance_scale))
    }
}

impl From<TeacherSettings> for Method {
    fn from(settings: TeacherSettings) -> Self {
        Self::Teacher(settings)
    }
}

/// The random number generator that a seed is for. Both draw in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseSource {
    /// `torch.Generator("cpu").manual_seed(seed)`, which gives the pictures of diffusers with a CPU generator.
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

/// Text features of a request.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// Features of the prompts.
    pub prompt: TextFeatures,
    /// Features of the unconditional branch, one row or one row per picture. `None` means the same as a request without
    /// a negative prompt.
    pub negative: Option<TextFeatures>,
}

impl Request {
    /// Makes a request to the distilled generator, with the seeds 0, 1, 2 and so on.
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
            sizes: None,
        }
    }

    /// The same request with one seed per picture.
    pub fn with_seeds(self, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    /// The same request with another method.
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

    /// The same request with given unit noise.
    pub fn with_latents(self, latents: Tensor<4>) -> Self {
        Self { latents: Some(latents), ..self }
    }

    /// The same request with given text features.
    pub fn with_embeddings(self, embeddings: Embeddings) -> Self {
        Self { embeddings: Some(embeddings), ..self }
    }

    /// The same request without the last `layers` layers of the text encoder.
    pub fn with_clip_skip(self, layers: usize) -> Self {
        Self { clip_skip: layers, ..self }
    }

    /// The same request with other sizes in Stable Diffusion XL's condition.
    pub fn with_size_conditions(self, sizes: SizeConditions) -> Self {
        Self { sizes: Some(sizes), ..self }
    }

    /// Number of pictures.
    pub(crate) fn count(&self) -> usize {
        match &self.embeddings {
            Some(embeddings) => embeddings.prompt.words.dims()[0],
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
    /// Wall-clock time of the whole request.
    pub timings: Timings,
}

/// Wall-clock time by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Time from prompts to text features.
    pub text: Duration,
    /// Time from noise to latents.
    pub denoising: Duration,
    /// Time from latents to pictures.
    pub decoding: Duration,
}

impl Timings {
    /// Time from prompts to pictures.
    pub fn total(&self) -> Duration {
        self.text + self.denoising + self.decoding
    }
}
