//! Before the second stage of a teacher: the text encoder alone learns what its captions look like.
//!
//! Stable Diffusion's text encoder comes trained by CLIP; a fresh one learns next to nothing from a
//! UNet that can already denoise without it. Here a linear head predicts the latent of a picture
//! from the mean of its caption's features, `E[x0 | text]`: the very thing the UNet needs from the
//! text at high noise. The head is thrown away.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::Device;
use dmd_clip::{ClipTextModel, TextConfig};
use dmd_core::{Noise, regression};
use dmd_weights::Precision;

use crate::checkpoint::RunState;
use crate::config::GroundingSection;
use crate::diffusion::{PLAIN_KEYS, Pool};
use crate::optimizer::{AdamW, AdamWConfig};
use crate::run::{Probe, Stage};
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
    model: Grounded,
    optimizer: AdamW,
    rate: LearningRate,
    noise: Noise,
    device: Device,
}

const OPTIMIZER: AdamWConfig =
    AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, max_norm: 1.0 };

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
            optimizer: AdamW::new(OPTIMIZER),
            noise: Noise::stream(seed, "grounding"),
            device: device.clone(),
            model,
            pool,
            empty,
            section,
        })
    }

    /// The text encoder, and the pool it was trained on.
    pub fn into_parts(self) -> (ClipTextModel, Pool) {
        (self.model.text, self.pool)
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
        let features = self.model.text.forward(self.pool.ids(&captions, &self.empty, &self.device));
        let [_, _, text_width] = features.dims();
        let mean = features.mean_dim(1).reshape([batch, text_width]);
        let predicted = self.model.head.forward(mean).reshape([batch, channels, height, width]);
        let spread = latents.clone() - latents.clone().mean_dim(0);
        let variance = f64::from(spread.square().mean().into_scalar::<f32>());
        let loss = regression::loss(predicted, latents);
        let mut grads = loss.backward();
        let grads = GradientsParams::from_module(&mut grads, &self.model);
        let rate = self.rate.at(step);
        let (model, norm) = self.optimizer.step(rate, self.model.clone(), grads);
        self.model = model;
        let loss = f64::from(loss.into_scalar::<f32>());
        Ok(vec![
            ("loss", loss),
            ("explained", 1.0 - loss / variance),
            ("gradient_norm", norm),
            ("learning_rate", rate),
        ])
    }

    fn save(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join("online.safetensors");
        dmd_weights::save(&self.model.valid(), &path, &PLAIN_KEYS, Precision::Single)?;
        Ok(self.optimizer.save(&folder.join("optimizer.safetensors"))?)
    }

    fn load(&mut self, folder: &Path, state: &RunState) -> Result<(), Error> {
        let file = dmd_weights::read(&folder.join("online.safetensors"))?;
        self.model = dmd_weights::load(self.model.clone(), &file, &PLAIN_KEYS)?;
        self.optimizer = AdamW::load(OPTIMIZER, &folder.join("optimizer.safetensors"), &self.device)?;
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
