use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use dmd_model::{AnyModel, EmbeddingOption, LoraOption, Networks, OpenOptions, Recipe};

use crate::{Error, Pipeline};

/// Collects the sources of a [`Pipeline`]'s parts. A part without a source is searched in the model folder.
#[derive(Debug, Clone)]
pub struct PipelineBuilder {
    options: OpenOptions,
    at_a_time: Option<usize>,
}

impl PipelineBuilder {
    pub(crate) fn new(model: PathBuf, device: &Device) -> Self {
        OpenOptions::new(model, device).into()
    }

    /// Replaces `unet_one_step` of the model folder by another generator: a diffusers UNet folder, or a bare state dict
    /// (`.safetensors`, or `.bin` with the feature `pytorch`) of the teacher's architecture, such as DMD's checkpoints.
    pub fn generator(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.generator = Some(path.into());
        self
    }

    /// Sets the published recipe by which the generator is called, such as `dmd2-4step` or `lightning-4step`
    /// ([`Recipe::names`]). In a model without a generator, the UNet is then itself the generator. `none` means that no
    /// published recipe is used, whatever the name of a file suggests.
    pub fn recipe(mut self, name: impl Into<String>) -> Self {
        self.options.recipe = Some(name.into());
        self
    }

    /// Sets the number of the generator's calls, for a published recipe that allows several numbers
    /// ([`Recipe::possible_steps`]).
    pub fn recipe_steps(mut self, steps: usize) -> Self {
        self.options.recipe_steps = Some(steps);
        self
    }

    /// Sets the guidance scale that a generator receives, for a network that takes it as an input: a latent consistency
    /// model. The default is 8.5, as in diffusers.
    pub fn told_guidance(mut self, scale: f64) -> Self {
        self.options.told_guidance = Some(scale);
        self
    }

    /// Merges a LoRA file into the weights when they are read. Its updates are multiplied by `strength`. Several files
    /// are added in the order of the calls. kohya's, diffusers' and PEFT's spellings are supported. [`Pipeline::notes`]
    /// says how the file was used.
    pub fn lora(mut self, path: impl Into<PathBuf>, strength: f64) -> Self {
        self.options.loras.push(LoraOption { path: path.into(), strength });
        self
    }

    /// Adds the word of a file of textual inversion, which prompts can then contain. The word is the tensor's name in
    /// diffusers' files, otherwise the file's name without its ending. [`Pipeline::notes`] gives the word.
    pub fn embedding(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.embeddings.push(EmbeddingOption { path: path.into(), word: None });
        self
    }

    /// As [`Self::embedding`], with another word.
    pub fn embedding_as(mut self, path: impl Into<PathBuf>, word: impl Into<String>) -> Self {
        self.options.embeddings.push(EmbeddingOption { path: path.into(), word: Some(word.into()) });
        self
    }

    /// Replaces the model's own autoencoder by another: a folder, or a file of weights. The scaling factor of latents
    /// stays that of the model's own autoencoder.
    pub fn autoencoder(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.autoencoder = Some(path.into());
        self
    }

    /// Sets a model folder from which a single file takes its configurations, tokenizers and missing parts. Without
    /// this folder, configurations and tokenizers are those of the published model of the file's family.
    pub fn config(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.config = Some(folder.into());
        self
    }

    /// Replaces the full autoencoder by the `AutoencoderTiny` (TAESD) in a folder. At 512×512 it needs an eighteenth of
    /// the operations.
    pub fn tiny_autoencoder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.tiny_autoencoder = Some(folder.into());
        self
    }

    /// Encodes and decodes large pictures in overlapping tiles of `side` × `side` latents, so that they need only the
    /// memory of one tile.
    pub fn tiles(mut self, side: usize) -> Self {
        self.options.tile = Some(side);
        self
    }

    /// Sets the float type of UNets and autoencoder, which is f32 by default. The statistics of normalisations, the
    /// time embedding, the text encoder and every step of the sampler are computed in single precision.
    pub fn dtype(mut self, dtype: FloatDType) -> Self {
        self.options.dtype = dtype;
        self
    }

    /// Sets how many pictures go through the networks in one batch. The default is as many as have 8192 latent
    /// positions in all, but at most 32: 2 pictures of 512×512 for Stable Diffusion, 32 of 64×64 for the embedded
    /// model. A larger number needs more memory and may be faster on a GPU.
    pub fn at_a_time(mut self, pictures: usize) -> Self {
        self.at_a_time = Some(pictures.max(1));
        self
    }

    /// Reads only the generator if there is one, otherwise only the teacher.
    pub(crate) fn generator_first(self) -> Self {
        self.networks(Networks::GeneratorFirst)
    }

    /// Does not read the teacher's UNet. This halves the memory, and only the distilled generator can then draw.
    pub fn one_step_only(self) -> Self {
        self.networks(Networks::Generator)
    }

    /// Does not read the distilled generator.
    pub fn teacher_only(self) -> Self {
        self.networks(Networks::Teacher)
    }

    fn networks(mut self, networks: Networks) -> Self {
        self.options.networks = networks;
        self
    }

    /// How the generator is called; `None` if there is no generator. Reads no weights.
    ///
    /// # Errors
    ///
    /// When a configuration is missing or damaged.
    pub fn generator_recipe(&self) -> Result<Option<Recipe>, Error> {
        Ok(dmd_model::generator_recipe(&self.options)?)
    }

    /// Reads the parts and makes the pipeline.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, or the parts do not fit each other.
    pub fn build(self) -> Result<Pipeline, Error> {
        let model = AnyModel::open(&self.options)?;
        Ok(Pipeline { model, at_a_time: self.at_a_time, options: Some(self.options) })
    }
}

impl From<OpenOptions> for PipelineBuilder {
    fn from(options: OpenOptions) -> Self {
        Self { options, at_a_time: None }
    }
}
