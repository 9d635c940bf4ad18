//! Before the second stage of a teacher: the text encoder alone learns what its captions look like.
//!
//! Stable Diffusion's text encoder comes trained by CLIP; a fresh one learns next to nothing from a
//! UNet that can already denoise without it. Here a linear head predicts the latent of a picture
//! from the mean of its caption's features, `E[x0 | text]`: the very thing the UNet needs from the
//! text at high noise. The head is thrown away.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use dmd_clip::{ClipTextModel, TextConfig};
use dmd_core::{Noise, regression};

use crate::config::GroundingSection;
use crate::fingerprint::Fingerprint;
use crate::pool::Pool;
use crate::training::{Recipe, Training, TrainingConfig};
use crate::{Error, Figures};

/// The text transformer and the head that predicts latents from it.
#[derive(Module, Debug)]
pub struct Grounded {
    text: ClipTextModel,
    head: Linear,
}

/// Trains a text encoder to predict latents.
#[derive(Debug)]
pub struct GroundingRecipe {
    batch: usize,
    pool: Pool,
    device: Device,
}

impl GroundingRecipe {
    /// Starts to train a fresh text encoder on a pool of latents; `device` is the plain device. `made_from` is what a
    /// checkpoint depends on.
    ///
    /// # Errors
    ///
    /// When the architecture is not valid.
    pub fn start(
        section: &GroundingSection,
        architecture: &TextConfig,
        pool: Pool,
        (seed, made_from): (u64, Fingerprint),
        device: &Device,
    ) -> Result<Training<Self>, Error> {
        device.seed(seed);
        let training = device.clone().autodiff();
        let outputs = pool.latent_shape().iter().product();
        let model = Grounded {
            text: architecture.init(&training)?,
            head: LinearConfig::new(architecture.hidden_size, outputs).init(&training),
        };
        let rate = section.schedule.rate(section.learning_rate, section.warmup_steps, section.pace.steps);
        let config = TrainingConfig { rate, ema_decay: 0.0, seed, made_from };
        let recipe = Self { batch: section.batch, pool, device: device.clone() };
        Ok(Training::new(recipe, model, config, "grounding", device))
    }
}

impl Training<GroundingRecipe> {
    /// The text encoder, and the pool it was trained on.
    pub fn finish(self) -> (ClipTextModel, Pool) {
        let (network, recipe) = self.into_parts();
        (network.text, recipe.pool)
    }
}

impl Recipe for GroundingRecipe {
    type Network = Grounded;

    fn name(&self) -> &'static str {
        "grounding"
    }

    fn batch(&self) -> Option<usize> {
        Some(self.batch)
    }

    fn loss(
        &mut self,
        network: &Grounded,
        _rate: f64,
        noise: &mut Noise,
    ) -> Result<(Tensor<1>, Figures), Error> {
        let places: Vec<usize> = (0..self.batch).map(|_| noise.below(self.pool.len())).collect();
        let captions: Vec<Option<usize>> = places.iter().copied().map(Some).collect();
        let latents = self.pool.latents(&places, &self.device);
        let [batch, channels, height, width] = latents.dims();
        let features = network.text.forward(self.pool.ids(&captions, &self.device));
        let [_, _, text_width] = features.dims();
        let mean = features.mean_dim(1).reshape([batch, text_width]);
        let predicted = network.head.forward(mean).reshape([batch, channels, height, width]);
        let variance = (latents.clone() - latents.clone().mean_dim(0)).square().mean();
        let loss = regression::loss(predicted, latents);
        let mut figures = Figures::new();
        figures.loss("loss", loss.clone());
        // Where all pictures of a batch are the same one, this is no number.
        figures.note("explained", loss.clone().without_autodiff() / variance * -1.0 + 1.0);
        Ok((loss, figures))
    }
}
