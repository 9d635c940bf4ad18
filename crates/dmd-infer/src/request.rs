use std::time::Duration;

use image::RgbImage;

/// What to draw, with defaults for everything but the prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// One picture per prompt.
    pub prompts: Vec<String>,
    /// One seed per prompt; empty means 0, 1, 2 and so on.
    pub seeds: Vec<u64>,
    /// How to draw.
    pub method: Method,
    /// Height and width in pixels; `None` is the size the model was trained on.
    pub size: Option<(usize, usize)>,
}

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Method {
    /// The distilled generator: one network call, no guidance.
    #[default]
    OneStep,
    /// The teacher's sampler.
    Teacher {
        /// Sampling steps.
        steps: usize,
        /// Classifier-free guidance; 1 is none.
        guidance_scale: f64,
    },
}

impl Request {
    /// A one-step request with seeds 0, 1, 2 and so on.
    pub fn new<P: Into<String>>(prompts: impl IntoIterator<Item = P>) -> Self {
        Self {
            prompts: prompts.into_iter().map(Into::into).collect(),
            seeds: Vec::new(),
            method: Method::OneStep,
            size: None,
        }
    }

    /// The same request with one seed per prompt.
    pub fn with_seeds(self, seeds: impl IntoIterator<Item = u64>) -> Self {
        Self { seeds: seeds.into_iter().collect(), ..self }
    }

    /// The same request, drawn another way.
    pub fn with_method(self, method: Method) -> Self {
        Self { method, ..self }
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
