//! Before the second stage of a teacher: the text encoder alone learns what its captions look like.
//!
//! Stable Diffusion's text encoder comes trained by CLIP; a fresh one learns next to nothing from a
//! UNet that can already denoise without it. Here a linear head predicts the latent of a picture
//! from the mean of its caption's features, `E[x0 | text]`: the very thing the UNet needs from the
//! text at high noise. The head is thrown away.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use dmd_clip::{ClipTextModel, TextConfig};
use dmd_core::{Noise, regression};

use crate::checkpoint::RunState;
use crate::config::GroundingSection;
use crate::diffusion::Pool;
use crate::run::{Probe, Stage};
use crate::trainee::{Trainee, teacher_optimizer};
use crate::{Error, LearningRate};

/// The text transformer and the head that predicts latents from it.
#[derive(Module, Debug)]
struct Grounded {
    text: ClipTextModel,
    head: Linear,
}

/// Trains a text encoder to predict latents.
#[derive(Debug)]
pub struct GroundingStage {
    section: GroundingSection,
    pool: Pool,
    empty: Vec<u32>,
    trainee: Trainee<Grounded>,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

impl GroundingStage {
    /// A fresh text encoder on a pool of latents; `empty` are the tokens of the empty caption.
    ///
    /// # Errors
    ///
    /// When the architecture is not valid.
    pub fn new(
        section: GroundingSection,
        architecture: &TextConfig,
        pool: Pool,
        empty: Vec<u32>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        device.seed(seed);
        let training = device.clone().autodiff();
        let outputs = pool.latent_shape().iter().product();
        let model = Grounded {
            text: architecture.init(&training)?,
            head: LinearConfig::new(architecture.hidden_size, outputs).init(&training),
        };
        Ok(Self {
            rate: LearningRate::cosine(section.learning_rate, section.warmup_steps, section.pace.steps),
            trainee: Trainee::new(model, 0.0, teacher_optimizer()),
            noise: Noise::stream(seed, "grounding"),
            device: device.clone(),
            pool,
            empty,
            section,
        })
    }

    /// The text encoder, and the pool it was trained on.
    pub fn into_parts(self) -> (ClipTextModel, Pool) {
        (self.trainee.model.text, self.pool)
    }
}

impl Stage for GroundingStage {
    fn name(&self) -> &'static str {
        "grounding"
    }

    fn step(&mut self, step: usize) -> Result<Vec<(&'static str, f64)>, Error> {
        let places: Vec<usize> = (0..self.section.batch).map(|_| self.noise.below(self.pool.len())).collect();
        let captions: Vec<Option<usize>> = places.iter().copied().map(Some).collect();
        let latents = self.pool.latents(&places, &self.device);
        let [batch, channels, height, width] = latents.dims();
        let features = self.trainee.model.text.forward(self.pool.ids(&captions, &self.empty, &self.device));
        let [_, _, text_width] = features.dims();
        let mean = features.mean_dim(1).reshape([batch, text_width]);
        let predicted = self.trainee.model.head.forward(mean).reshape([batch, channels, height, width]);
        let spread = latents.clone() - latents.clone().mean_dim(0);
        let variance = f64::from(spread.square().mean().into_scalar::<f32>());
        let loss = regression::loss(predicted, latents);
        let rate = self.rate.at(step);
        let norm = self.trainee.descend(&loss, rate, step);
        let loss = f64::from(loss.into_scalar::<f32>());
        Ok(vec![
            ("loss", loss),
            ("explained", 1.0 - loss / variance),
            ("gradient_norm", norm),
            ("learning_rate", rate),
        ])
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        self.trainee.save(folder, "")
    }

    fn load(&mut self, folder: &Path, state: &RunState) -> Result<(), Error> {
        self.trainee.load(folder, "", &self.device)?;
        state.seek(&mut self.noise, folder)
    }

    fn state(&self, step: usize, seconds: f64) -> RunState {
        RunState::new(step, seconds, &self.noise)
    }

    /// Nothing to look at: the loss says it.
    fn probe(&self) -> Result<Probe, Error> {
        Ok(Probe::default())
    }
}
