use std::time::Duration;

use burn::tensor::Tensor;
use dmd_core::Noise;
use dmd_scheduler::Sampler;
use image::RgbImage;

/// What to draw, with defaults for everything but the prompts.
#[derive(Debug, Clone)]
pub struct Request {
    /// One picture per prompt. May be empty where [`Self::embeddings`] are given.
    pub prompts: Vec<String>,
    /// One seed per picture; empty means 0, 1, 2 and so on.
    pub seeds: Vec<u64>,
    /// How to draw.
    pub method: Method,
    /// Height and width in pixels; `None` is the size the model was trained on, or that of the picture
    /// to start from.
    pub size: Option<(usize, usize)>,
    /// Whose random numbers a seed stands for.
    pub noise: NoiseSource,
    /// What a picture starts from.
    pub start: Start,
    /// Text features in place of the prompts'.
    pub embeddings: Option<Embeddings>,
    /// Layers of the text encoder that are left out at its end, for the prompt (as in diffusers, not for
    /// the negative one).
    pub clip_skip: usize,
    /// What pictures should not show; the other end of classifier-free guidance. Teacher only.
    pub negative_prompt: Option<String>,
    /// The teacher's sampler in place of the configured one.
    pub sampler: Option<Sampler>,
    /// The teacher's timesteps, descending, in place of a number of steps.
    pub timesteps: Option<Vec<usize>>,
    /// Share by which guidance is kept from widening the output's deviation (Lin et al. 2024); 0 is
    /// none. Teacher only.
    pub guidance_rescale: f64,
}

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Method {
    /// The distilled generator, in the steps it was distilled for (one, unless its `one_step.json` lists
    /// more timesteps), without guidance.
    #[default]
    OneStep,
    /// The teacher's sampler.
    Teacher {
        /// Sampling steps; without a part where the request lists timesteps.
        steps: usize,
        /// Classifier-free guidance; 1 is none.
        guidance_scale: f64,
    },
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

/// What a picture starts from.
#[derive(Debug, Clone, Default)]
#[expect(clippy::large_enum_variant, reason = "there is one per request")]
pub enum Start {
    /// The seed's noise.
    #[default]
    Noise,
    /// Given unit noise, `[pictures, channels, height / 8, width / 8]` for Stable Diffusion.
    Latents(Tensor<4>),
    /// Another picture, for all prompts (image to image). Teacher only.
    Picture {
        /// The picture; its size is the result's.
        picture: RgbImage,
        /// From 0 (the picture itself) to 1 (nothing of it): the share of the steps that are done.
        strength: f64,
    },
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
    /// A one-step request with seeds 0, 1, 2 and so on.
    pub fn new<P: Into<String>>(prompts: impl IntoIterator<Item = P>) -> Self {
        Self {
            prompts: prompts.into_iter().map(Into::into).collect(),
            seeds: Vec::new(),
            method: Method::OneStep,
            size: None,
            noise: NoiseSource::default(),
            start: Start::Noise,
            embeddings: None,
            clip_skip: 0,
            negative_prompt: None,
            sampler: None,
            timesteps: None,
            guidance_rescale: 0.0,
        }
    }

    /// The same request with one seed per picture.
    pub fn with_seeds(self, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    /// The same request, drawn another way.
    pub fn with_method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Number of pictures.
    pub fn count(&self) -> usize {
        match &self.embeddings {
            Some(embeddings) => embeddings.prompt.dims()[0],
            None => self.prompts.len(),
        }
    }

    /// The request's settings as one line of text, in the form that other programs write into their
    /// PNGs under `parameters`.
    pub fn describe(&self, picture: usize, seed: u64, size: (u32, u32), model: &str) -> String {
        let prompt = self.prompts.get(picture).map_or("", String::as_str);
        let mut text = prompt.to_owned();
        if let Some(negative) = &self.negative_prompt {
            text.push_str(&format!("\nNegative prompt: {negative}"));
        }
        let (steps, guidance) = match self.method {
            Method::OneStep => (1, None),
            Method::Teacher { steps, guidance_scale } => {
                (self.timesteps.as_ref().map_or(steps, Vec::len), Some(guidance_scale))
            }
        };
        text.push_str(&format!("\nSteps: {steps}"));
        if let Some(sampler) = self.sampler {
            text.push_str(&format!(", Sampler: {}", sampler.name()));
        }
        if let Some(guidance) = guidance {
            text.push_str(&format!(", CFG scale: {guidance}"));
        }
        if self.guidance_rescale != 0.0 {
            text.push_str(&format!(", CFG rescale: {}", self.guidance_rescale));
        }
        if self.clip_skip > 0 {
            text.push_str(&format!(", Clip skip: {}", self.clip_skip));
        }
        if let Start::Picture { strength, .. } = &self.start {
            text.push_str(&format!(", Denoising strength: {strength}"));
        }
        let noise = match self.noise {
            NoiseSource::TorchCpu => "CPU",
            NoiseSource::TorchCuda => "GPU",
        };
        text.push_str(&format!(
            ", Seed: {seed}, RNG: {noise}, Size: {}x{}, Model: {model}, Version: dmd {}",
            size.0,
            size.1,
            env!("CARGO_PKG_VERSION")
        ));
        text
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
